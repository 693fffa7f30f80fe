"""The built-in model: its weights, and how it is trained.

In the order in which things happen: `recipe.yaml` and `run` say what to do, `model` and `tokenizer` are
what is trained, `encoder` pretrains the vision encoder, `batches` draws clips with questions, and
`exercises` what else is learned from them, `packing` puts them into rows, `targets` and
`attention_supervision` add to the `loss`, `stage` trains with `optimizer`. `teacher` makes of the
finished model one to distil from.
"""
