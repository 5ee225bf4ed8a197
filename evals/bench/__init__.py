"""`a1 bench`: what A1 gains on a pair of runtimes, against what, and how much more there would be to gain.

`arms` are what is compared, `reference` one of them, `waits` where a run's time went, `limits` what cannot be beaten,
`race` runs them all, and `rho` measures one runtime alone.
"""
