"""NPU and CPU through OpenVINO.

    Graph --pipelines openvino-cpu, openvino-npu--> Graph --lower--> openvino.Model --> IR in a bundle

- `opset.py`: OpenVINO's operations as op classes call them
- `lower.py`: Graph -> openvino.Model, op by op through each class's `openvino` method
- `rules.py`: what of a graph a device does not take, with reasons; the NPU's rules
- `compile.py`: the driver

`gpucompile.runtime.openvino` runs the result. OpenVINO is the extra `gpucompile[openvino]`; it is imported by nothing
else, and only once one of its devices is asked for.
"""
