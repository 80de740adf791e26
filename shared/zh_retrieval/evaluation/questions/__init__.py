"""Questions and judgements for those who have none: made from a corpus by rule, or labelled by hand."""
