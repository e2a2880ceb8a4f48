"Two ways to the same numbers, timed in turns: what every benchmark here shares."
import time
import numpy as np, pandas as pd, torch

torch.set_num_threads(2)

def clock(f):
    "Milliseconds of one call."
    t = time.perf_counter()
    f()
    return (time.perf_counter()-t)*1e3

def race(name, peer, ours, tol, goal, rounds):
    "One row: values agree within `tol` (relative to the peer's largest), then medians of interleaved runs and of their ratios."
    a,b = (np.asarray(f(), dtype=float) for f in (peer, ours))
    gap = abs(a-b).max()/abs(a).max()
    assert gap<=tol, f'{name}: the two differ by {gap:.1e}'
    t = np.array([(clock(peer), np.median([clock(ours) for _ in range(3)])) for _ in range(rounds)])
    return dict(name=name, peer_ms=np.median(t[:, 0]), ours_ms=np.median(t[:, 1]), ratio=np.median(t[:, 0]/t[:, 1]), goal=goal, gap=gap)

def show(rows, what):
    "Print the table; exit code 1 if a goal was missed."
    t = pd.DataFrame(rows)
    ok = bool((t.ratio.isna() | t.goal.isna() | (t.ratio>=t.goal)).all())
    print(f'{what}; torch {torch.__version__}, {torch.get_num_threads()} threads\n')
    digits = dict(peer_ms='{:.1f}', ours_ms='{:.1f}', ratio='{:.1f}', goal='{:.0f}', gap='{:.0e}')
    print(t.to_string(index=False, formatters={k: (lambda v, f=f: '' if v!=v else f.format(v)) for k,f in digits.items()}))
    return 0 if ok else 1
