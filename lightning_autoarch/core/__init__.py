"""The ground floor: what every other part may use. It imports no other part, and neither Lightning nor Optuna.

errors    all public errors                  schema     forms of stored states, checked before use
checks    checks of arguments                files      files written whole, paths that can be written
patterns  which parameters a pattern means   rest       a module run without leaving a trace
optional  optional packages                  examples   example inputs, and how a forward is called with them
rng       global random number generators    tolerance  when two results agree
"""
