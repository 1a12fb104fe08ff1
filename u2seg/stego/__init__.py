"""STEGO: a small head on frozen features that learns stuff classes without labels (Hamilton et al., ICLR 2022).

What other methods may build on: `model.CodeModel`, `head.CodeHead`, `head.ClusterProbe`, `centres.spherical_kmeans`,
`trainer.StuffTrainer`, `checkpoint.StuffCheckpoint` and `segmenter.CodeStuff`; ``examples/cause`` does.
"""
