"""From points to losses: owns the fast evaluation.

`batch`        prompts grouped by length, so that nothing is ever padded
`losses`       label logits -> one loss a candidate
`engine`       a population of candidates as one batch, from the first layer that differs
`statistics`   measurements that scale the random projections
`objective`    the above with a training set and a metric
"""
