"""Jobs from their approval to their result: the queue, the Workers, and what is written at each step."""
