"""What leaves a run: the model folder and the report."""
