"""Training: the paper's two stages on the transformers `Trainer`, from data in LLaVA's convention.

In the order in which things happen: `recipe` says what to do, `records` and `conversation` and
`dataset` make examples, `collator` makes batches, `stages` says what learns, `trainer` trains,
`checkpoints` keeps a killed run whole, `lora` trains a part instead, `run` does all of it.
"""
