"""Training on the transformers `Trainer`: the paper's two stages, from data in LLaVA's convention, and
distillation, from videos without labels.

In order of use: `recipe` holds the options, `records`, `conversation` and `dataset` make examples,
`collator` makes batches, `stages` and `lora` choose the trainable parameters, `trainer` trains,
`checkpoints` are atomic, `supervised` is the paper's method, `run` does all of it. Of distillation,
`answers` are the teacher's, `token_schedule` draws the student's number of tokens, `student` is what
learns, `distillation` is the method.
"""
