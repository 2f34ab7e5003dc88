"""The paper's experiments as commands: each trains what it needs in the lab, or takes runs that are there."""
