"""ONNX Runtime: sessions, their memory, and graphs read without the onnx package."""
