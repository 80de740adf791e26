"""The CPU's engine: graphs for OpenVINO, made op by op from the checked tensors of a folder."""
