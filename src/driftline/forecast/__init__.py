"""Where is the run going: extrapolators, back-tests on the run itself, and the plan of what is to be written."""
