"""Where is the run going: coefficients by many methods, back-tests on the run itself, the choice among them."""
