"""Owners serve ONNX models; others ask them, or take them, where that is allowed."""
