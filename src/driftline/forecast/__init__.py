"""Where is the run going: extrapolators, back-tests on the run itself, writing the forecast model."""
