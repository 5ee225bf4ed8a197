"""`a1 simulate`: a fleet of runtimes as discrete events, fitted to one recorded run and checked against others."""
