"""`a1 bench`: what A1 gains on a pair of runtimes, against what, and how much more there would be to gain.

`arms` are what is compared, `reference` one of them; `race` runs them all, `waits` says where a run's time went and
`limits` what cannot be beaten; `rho` measures one runtime alone.
"""
