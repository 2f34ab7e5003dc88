"""Where a trajectory comes from: finding checkpoints, the layouts of trainers, reading tensors by slice."""
