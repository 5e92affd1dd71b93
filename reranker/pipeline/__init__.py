"""The pipeline: windows of a data set, fitting, ranking, the public Reranker and its bundles."""
