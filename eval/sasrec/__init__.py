"""SASRec as a comparison."""
