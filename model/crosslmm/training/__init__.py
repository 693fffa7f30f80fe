"""Training: the paper's two stages on the transformers `Trainer`, from data in LLaVA's convention.

In order of use: `recipe` holds the options, `records`, `conversation` and `dataset` make examples,
`collator` makes batches, `stages` and `lora` choose the trainable parameters, `trainer` trains,
`checkpoints` are atomic, `run` does all of it.
"""
