"""From a torch bundle to ONNX, each artefact verified against the model it came from."""
