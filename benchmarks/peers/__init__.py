"""One worker per inference engine: `python -m benchmarks.peers.ENGINE MODEL.onnx INPUT.npz` measures that engine alone
in its process and prints one line of JSON. `benchmarks.models` starts them; `worker` holds what they share."""
