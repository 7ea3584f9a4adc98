"""What a Domain publishes of itself: public datasets, models and processes, as a Network may tell of them."""
