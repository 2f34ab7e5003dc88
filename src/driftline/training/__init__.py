"""Inside a trainer: the lab that makes real RLVR runs on a small machine."""
