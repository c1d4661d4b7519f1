"""What to keep: weights are read from any source, matched by name and shape, and copied all at once or not at all.

    read_checkpoint  ─►  names  ─►  shapes  ─►  one commit, or none  ─►  TransferReport

    report = transfer_weights(
        model,
        "pretrained.ckpt",                              # or .pt, .safetensors, an index, a directory, https://, hf://
        rules=[("backbone", "encoder")],
        on_mismatch="slice",
        reinit=["decoder"],
        matching=Matching(classes={281: 0, 207: 1}),    # rows of the old output layer and of the new one
    )
    print(report)                                       # 87.3% of 11,181,642 parameters taken over ...

Nothing here depends on Lightning: a module is an `nn.Module`, weights are a mapping of names to tensors.
"""
