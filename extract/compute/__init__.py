"""Photos through an engine: the pipeline, activations for fine-tuning, Ray."""
