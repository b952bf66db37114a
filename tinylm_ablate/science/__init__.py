"""Statistics and verdicts on finished runs; works on data frames, reads no files of runs, and trains nothing.

| module | content |
|---|---|
| ``evidence`` | the input data frames, and groups of comparable runs |
| ``estimate`` | paired effects over seeds and documents, with intervals and p-values |
| ``looks`` | numbers of seeds at which comparisons are judged, and the error allowed at each |
| ``comparison`` | one comparison of arms and its verdict |
| ``claim``, ``claim_files``, ``claims/`` | statements by the paper or others, as data |
| ``gate``, ``margin`` | conditions for testing a claim, and the smallest effect that matters |
| ``drafts``, ``verdict`` | comparisons of a claim, and one verdict per claim; false discovery rate over a family of claims |
| ``trend``, ``forecast`` | effects over budgets and scales, and at scales that were not run |
| ``rank``, ``accuracy`` | rank correlations, and agreement of a small scale with a larger one on the order of arms |
| ``pairs`` | all pairs of arms of a table |
| ``seeds``, ``tuning`` | arms that need more seeds, learning rates to try next |
"""
