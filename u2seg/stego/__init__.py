"""STEGO: a small head on frozen features that learns stuff classes without labels (Hamilton et al., ICLR 2022).

Other methods may build on `model.CodeModel`, the parts of `head`, `trainer.StuffTrainer` and `segmenter.CodeStuff`;
``examples/cause`` does.
"""
