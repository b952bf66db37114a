"""Statistics and verdicts over finished runs: it reads data frames, knows no file of a run, and trains nothing.

| module | about |
|---|---|
| ``evidence`` | the frames that everything here reads, and the groups of runs that may be compared |
| ``estimate`` | a paired effect over seeds and documents, with its intervals and p-values |
| ``looks`` | the numbers of seeds at which a comparison is judged, and the error that each look may spend |
| ``comparison`` | one comparison of arms and its verdict |
| ``claim``, ``claims/`` | statements of the paper, or of anyone, as data |
| ``gate``, ``margin`` | when a claim can be tested, and the smallest effect that matters |
| ``verdict`` | one verdict for each claim; the false discovery rate over a family of claims |
| ``trend``, ``forecast`` | effects over budgets and scales, and at a scale that was not run |
| ``rank``, ``accuracy`` | rank correlations, and how often a small scale orders two arms as a larger one does |
| ``pairs`` | all pairs of arms of a table |
| ``seeds``, ``tuning`` | which arms need more seeds, which learning rates to try next |
"""
