"""Owners serve ONNX models; other users request predictions, or download the model, where the owner allows it."""
