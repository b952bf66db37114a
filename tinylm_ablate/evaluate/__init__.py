"""What a trained model is worth: bits per byte and a four-way cloze, comparable across tokenizers."""

from tinylm_ablate.evaluate.run import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
