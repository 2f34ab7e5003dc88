"""The figure of each study, as the paper draws it: a function from its record to the sections of its page."""
