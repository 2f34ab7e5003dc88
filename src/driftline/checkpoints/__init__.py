"""Where a trajectory comes from: finding checkpoints, reading tensors by slice, writing results safely."""
