"""Export checkpoints as ONNX, TorchScript and TensorRT engines."""
