# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What the papers claim
#
# > Each claim a line a machine can check, and the verdict of our own numbers
#
# `data/papers/claims.yaml` holds the claims: where it is written, in which words, whether the paper's own numbers bear it out, and a test. The test says what must be better than what, on the
# [boards](boards.ipynb) or in an ablation, or what must be counted. A verdict is about our reproduction, on other scenes and with shorter trainings. Its words are these.
#
# | word | when |
# |---|---|
# | confirmed | every comparison is on the claim's side, interval and all |
# | confirmed as counted | the number comes out if it is counted as the paper seems to have counted; the note says how |
# | contradicted by the paper itself | the sentence is not borne out by the paper's own table; where we counted, our count confirms the table |
# | contradicted here | a comparison is on the other side, by more than is small, after Holm's correction for how many the claim makes |
# | alike | nothing is worse, and at least one difference is certain to be smaller than anyone would act on |
# | not told apart | the intervals hold both |
# | not trained far enough | a network is below plain interpolation, or the better one is not above GSA: they have not learned enough to be compared |
# | not testable here | data or code that cannot be had |
#
# The first five are judgements. [The page on effects](effects.ipynb) says where intervals and the smallest effects come from.

# %%
#| default_exp papers.claims

# %%
#| export
import json, pandas as pd, re, yaml
from functools import cache, partial
from pansharp_nb import settings
from pansharp_nb.models import counting, networks
from pansharp_nb.papers import boards, effects
from pansharp_nb.papers.reported import board as printed_board
from pansharp_nb.writing import write
from pathlib import Path

# %%
#| hide
import numpy as np
from fastcore.test import *
from tempfile import TemporaryDirectory

# %% [markdown]
# ## The file

# %%
#| export
order = ('confirmed', 'confirmed as counted', 'contradicted by the paper itself', 'contradicted here', 'alike', 'not told apart', 'not trained far enough', 'not testable here')
judged = order[:5]

def claims(paper:str=None)->list: # of dicts `id, paper, where, quote, says, holds, own, test`
    "All claims, or one paper's."
    f = settings.root()/'data'/'papers'/'claims.yaml'
    if not f.exists(): raise ValueError(f'{f} is missing: the claims come with a clone of the repository, not with the wheel')
    return [c for c in yaml.safe_load(f.read_text(encoding='utf-8')) if paper in (None, c['paper'])]


# %%
c = claims()
test_eq(len({x['id'] for x in c}), len(c))
pd.DataFrame([dict(paper=x['paper'], kind=next(k for k in kinds if k in x['test'])) for kinds in [('board', 'study', 'count', 'printed', 'timed', 'shown', 'needs')] for x in c]).value_counts().unstack()


# %% [markdown]
# ## Better, metric by metric
#
# Every comparison gets its interval; those of one claim are corrected together. Then each metric has its word: one rival that is worse decides it, and "confirmed" wants them all.

# %%
#| export
def compared(
    scores:pd.DataFrame, # tidy
    a, over, metrics,    # the methods that should be better; their rivals; names of metrics
    lead:float=0.,       # by how much at least
    by:str=None          # `sensor`: on each that has three scenes
)->tuple:                # frame `sensor, metric, a, over, effect, low, high, p, n, trainings`; rivals that share fewer than three scenes
    "All comparisons of a claim."
    a,rows,met = [a] if isinstance(a, str) else a,[],set()
    parts = scores.groupby('sensor') if by else [('', scores)]
    for s,part in parts:
        t = effects.table(part[part.metric.isin(metrics) & part.method.isin([*a, *over])])
        for m,i,o in [(m, i, o) for m in metrics for i in a for o in over if {(m, i), (m, o)}<=set(t)]:
            x,*who = effects.differences(t, i, o, m)
            e = effects.interval(x-lead, *who)
            if e['n']>2 and not met.add(o): rows.append(dict(sensor=s, metric=m, a=i, over=o) | e)
    d = pd.DataFrame(rows, columns='sensor metric a over effect low high p n trainings'.split())
    return d.assign(p=effects.holm(d.p)), [o for o in over if o not in met]

def metric_word(
    d:pd.DataFrame,   # of `compared`, one metric
    within:float=None # a claim of likeness, to that difference
)->str:
    "The word for one metric."
    if within is not None:
        if (d[['low', 'high']].abs()<within).all(axis=None): return 'confirmed'
        return 'contradicted here' if ((d.low>within) | (d.high< -within)).any() else 'not told apart'
    said = {effects.word(dict(r), effects.least[r['metric']], r['p']) for r in d.to_dict('records')}
    if 'worse' in said: return 'contradicted here'
    return 'confirmed' if said=={'better'} else 'alike' if 'not told apart' not in said else 'not told apart'

def whole_word(words)->str: # of the metrics
    "The word for the claim."
    for w in ('contradicted here', 'not trained far enough', 'not told apart', 'alike'):
        if w in words: return w
    return 'confirmed'


# %%
def tidy(metrics, **methods): # method -> a value a scene
    rows = [(m, i, k, v) for m,x in methods.items() for i,v in enumerate(x) for k in metrics]
    return pd.DataFrame(rows, columns=['method', 'scene', 'metric', 'value']).assign(seed=0, weights='-')
x = 10*np.arange(6.)
base = tidy(('PSNR', 'SAM'), a=x+3, b=1.001*x+1, c=1.002*x+2.99, EXP=x+1.5, GSA=x+2)
d,lost = compared(base, 'a', ['b', 'none'], ['PSNR', 'SAM'])
test_eq([metric_word(g) for _,g in d.groupby('metric')], ['confirmed', 'contradicted here'])
test_eq([lost, metric_word(compared(base, 'a', ['c'], ['PSNR'])[0]), metric_word(compared(base, 'a', ['b'], ['PSNR'])[0], within=.2)], [['none'], 'alike', 'contradicted here'])


# %% [markdown]
# Methods that are equal by construction: through this very code a false "contradicted here" comes up in at most one claim of twenty, for ten rivals and four metrics on three to six scenes.

# %%
def equal(rng, scenes, rivals=10, metrics=('PSNR', 'SSIM', 'ERGAS', 'SAM')): # the word for a claim about equals
    names = ['a', *(f'r{i}' for i in range(rivals))]
    s = pd.concat([tidy([k], **{m: rng.normal(size=scenes) for m in names}) for k in metrics])
    return whole_word([metric_word(g) for _,g in compared(s, 'a', names[1:], metrics)[0].groupby('metric')])
false = {n: np.mean([equal(np.random.default_rng((n, k)), n)=='contradicted here' for k in range(15)]) for n in (3, 4, 6)}
assert np.mean([*false.values()])<=.05, false
false


# %% [markdown]
# ## Where the numbers come from
#
# The boards by cross-validation, with the networks as the papers build them, and the classical methods on the same scenes; for satellites of which there is no scene, made-up ones; the ablations' own reports.

# %%
#| export
def _scores(test, studies:str):
    if 'board' in test: d = boards.scores(test['board'], test.get('convention', 'toolbox'), test.get('wald', 'toolbox'))
    else:
        found = [settings.reports_dir(k, studies)/f'{test["study"]}.csv' for k in ('tables', 'figures')]
        f = next((p for p in found if p.exists()), None)
        d = pd.read_csv(f) if f else None
        if d is not None and set(d.profile)!={studies}: return None
    return d if d is None or 'sensors' not in test else d[d.sensor.isin(test['sensors'])]


# %% [markdown]
# Counts are exact. `as` in a test names other ways to count that a paper may have gone: with thop, which counts some layers twice and some not at all, with eight bands, with layers that are made and never called.

# %%
#| export
@cache
def _counts(name, bands, knobs): return counting.count(partial(networks.build, name, bands, **json.loads(knobs)), bands)

def _counted(test): # the claim about a number, and the numbers
    def n(name, knobs={}): return _counts(name, test.get('bands', 4), json.dumps(knobs))[test['count']]
    a = n(test['a'], test.get('knobs', {}))
    if 'equals' in test: return abs(a/test['equals']-1)<=test['tolerance'], f"{a:,} against {test['equals']:,}"
    if 'factor' in test: return 1/test['factor']<=a/test['near']<=test['factor'], f"{a:,} against {test['near']:,}"
    sign,others = (1, test['less_than']) if 'less_than' in test else (-1, test['more_than'])
    b = {o: n(o) for o in others}
    return all(sign*(v-a)>0 for v in b.values()), f"{a:,} against {', '.join(f'{v:,} ({o})' for o,v in b.items())}"

def _count_word(test, holds):
    ok,said = _counted(test)
    if ok: return 'confirmed', said
    for rule,other in test.get('as', {}).items():
        right,how = _counted(test | other)
        if right: return 'confirmed as counted', f'{rule}: {how}; else {said}'
    return ('contradicted here' if holds in ('yes', 'untabulated') else 'contradicted by the paper itself'), said


# %% [markdown]
# Some sentences are about the paper's own print alone; arithmetic decides them. Each line of such a test says what is wrong with the print, or nothing.

# %%
#| export
def _column(paper, table, sensor, metric): return printed_board(paper, str(table), sensor, as_printed=True)[metric].dropna()

def _rank(b, m, metric): return int(b.rank(ascending=metric in effects.lower, method='min')[m])

def _print_fault(paper, q): # one line of a `printed` test
    if 'ranks_fall' in q:
        a,b = (_rank(_column(paper, n, q['sensor'], m), q['ranks_fall'], m) for n,m in (q['from'], q['to']))
        return '' if b>a else f'rank {a} in {q["from"][1]}, {b} in {q["to"][1]}'
    v = _column(paper, q['table'], q['sensor'], q['metric'])
    if 'rank_at_most' in q: return '' if (k := _rank(v, q['a'], q['metric']))<=q['rank_at_most'] else f'rank {k}'
    if 'leads_more' in q:
        x,y,z = v.sort_values(ascending=q['metric'] in effects.lower).iloc[:3]
        return '' if v[q['leads_more']]==x and abs(x-y)>abs(y-z) else f'leads by {abs(x-y):.3g}, the second by {abs(y-z):.3g}'
    mine = v[q.get('all_of', [q['a']] if 'a' in q else list(v.index))]
    rivals = v[q['over']] if 'over' in q else pd.Series({'': q['than']})
    sign = -1 if q.get('less') else 1
    wrong = [f'{m} {x:g} against {y:g} {o}'.strip() for m,x in mine.items() for o,y in rivals.items() if sign*(x-y)<=q.get('by', 0)]
    return '; '.join(wrong[:2]) + (f' and {len(wrong)-2} more' if len(wrong)>2 else '')


# %% [markdown]
# All its lines together:

# %%
#| export
def _printed_word(paper, test):
    faults = {f'{q["sensor"]} {q.get("metric", "")}'.strip(): s for q in test['printed'] if (s := _print_fault(paper, q))}
    if not faults: return 'confirmed', 'by the paper\'s own print'
    return 'contradicted by the paper itself', '; '.join(f'{k}: {s}' for k,s in list(faults.items())[:3]) + (f'; {len(faults)} of {len(test["printed"])} columns in all' if len(faults)>3 else '')


# %%
test_eq([_printed_word('SIDP', dict(printed=[dict(table='3', sensor='GF1', metric='SCC', than=v)]))[0] for v in (.9, .95)], ['confirmed', 'contradicted by the paper itself'])
_printed_word('SUM-DUN', next(x for x in c if x['id']=='SU01')['test'])


# %% [markdown]
# Seconds are read from the report that took them, on the processor it names. What is exact is shown on a page, which a test runs.

# %%
#| export
def _timed_word(test):
    f = settings.reports_dir('tables')/f'{test["timed"]}.csv'
    t = pd.read_csv(f, index_col=0).filter(regex='^ms here').iloc[:, 0] if f.exists() else pd.Series(dtype=float)
    if not {*test['a'], *test['over']}<=set(t.dropna().index): return 'not testable here', 'not timed'
    said = ', '.join(f'{m} {t[m]:.0f}' for m in (*test['a'], *test['over']))
    return 'confirmed' if t[test['a']].max()<t[test['over']].min() else 'contradicted here', f'ms on a CPU, {t.name.removeprefix("ms here, ")}: {said}'

def _shown_word(test): return 'confirmed' if test['as_said'] else 'contradicted here', f'{test["note"]} ({test["shown"]})'


# %% [markdown]
# ## The verdict
#
# A rival that no code can be had of stays in the claim's words and is left out of the test, and the note says so; one that was not trained yet keeps "confirmed" from being said. Of several comparisons the one that decides is shown.

# %%
#| export
def _deciding(d, within): # the comparison farthest on the wrong side, in widths of its interval
    if within is not None: return d.loc[d[['low', 'high']].abs().max(axis=1).idxmax()]
    return d.loc[(d.effect/(d.high-d.low+1e-12)).idxmin()]

def _notes(test, lost, gone, faults):
    said = ['on made-up scenes'] if test.get('board', '').startswith('truth') else []
    said += [f'{", ".join(gone)} cannot be rebuilt'] if gone else []
    said += [f'not compared with {", ".join(lost)}'] if lost else []
    return '; '.join([*said, *dict.fromkeys(filter(None, faults.values()))])

def _tested(test, studies): # words a metric, the deciding comparison, a note
    gone = [o for o in (*test['over'], *test.get('gone', ())) if o in networks.absent]
    over,scores = [o for o in test['over'] if o not in gone],_scores(test, studies)
    if scores is None: return {}, None, 'not run'
    d,lost = compared(scores, test['a'], over, test['metrics'], test.get('lead', 0.), test.get('by'))
    if not len(d): return {}, None, f"fewer than three scenes of {', '.join(test.get('sensors', ['any sensor']))} with {test['a']} and {', '.join(lost)}"
    faults = {m: effects.floor_fault(scores, test['a'], over, m, boards.flat()) for m in test['metrics']}
    words = {m: 'not trained far enough' if faults[m] else metric_word(g, test.get('within')) for m,g in d.groupby('metric', sort=False)}
    if lost: words = {m: 'not trained far enough' if w=='confirmed' else w for m,w in words.items()}
    return words, _deciding(d, test.get('within')), _notes(test, lost, gone, faults)


# %% [markdown]
# One claim:

# %%
#| export
def judge(
    claim:dict,           # of `claims`
    studies:str='quick'   # profile of the ablations
)->dict: # `id, paper, says, where, holds, kind, verdict, metrics, effect, low, high, scenes, trainings, against, note`
    "What our numbers say to a claim; effect and interval are those of the comparison that decides."
    test,out = claim['test'],{k: claim[k] for k in ('id', 'paper', 'says', 'where', 'holds')} | dict(kind='size' if {'count', 'timed'} & set(claim['test']) else 'quality')
    if 'needs' in test: return out | dict(verdict='not testable here', note=test['needs'])
    if 'count' in test: return out | dict(zip(('verdict', 'note'), _count_word(test, claim['holds'])))
    exact = [k for k in ('printed', 'timed', 'shown') if k in test]
    if exact: return out | dict(zip(('verdict', 'note'), dict(printed=partial(_printed_word, claim['paper']), timed=_timed_word, shown=_shown_word)[exact[0]](test)))
    words,e,note = _tested(test, studies)
    if e is None: return out | dict(verdict='not testable here', note=note)
    each = '; '.join(f'{m}: {w}' for m,w in words.items()) if len(set(words.values()))>1 else ''
    out |= dict(verdict=whole_word(words.values()), metrics=each, against=', '.join(filter(None, (e.over, e.metric, e.sensor))), scenes=e.n, note=note)
    return out | {k: e[k] for k in ('effect', 'low', 'high', 'trainings')}


# %%
counts = [x for x in c if 'count' in x['test']]
pd.DataFrame([judge(x) for x in counts[:4]])[['id', 'says', 'holds', 'verdict', 'note']]


# %% [markdown]
# All of them, and how many of each: claims about size and claims about quality apart, since the first are counted and the second are found out.

# %%
#| export
def scorecard(studies:str='quick')->pd.DataFrame: # as in `judge`
    "All claims, judged."
    columns = 'id paper says where holds kind verdict metrics effect low high scenes trainings against note'.split()
    return pd.DataFrame([judge(c, studies) for c in claims()], columns=columns)

def tally(card:pd.DataFrame, kind:str=None)->pd.DataFrame: # of `scorecard`; `size` or `quality`
    "How many of each verdict, a row a paper; `judged` is how many of the first five."
    d = card[card.kind==kind] if kind else card
    t = d.groupby(['paper', 'verdict']).size().unstack(fill_value=0).reindex(columns=order, fill_value=0)
    return t.assign(claims=t.sum(axis=1), judged=t[list(judged)].sum(axis=1))


# %% [markdown]
# ## The front page
#
# README's table, one row a paper: its page here, its tables and figures, how its claims fared. The scorecard's notebook puts it there.

# %%
#| export
_pages = dict(premix='PreMix', mfmif='MFMIF-Net', dcfnet='DCFNet', sidp='SIDP', sumdun='SUM-DUN')

def _links(slug): # of a paper's reports, tables first
    found = [p for k in ('tables', 'figures') for p in (settings.root()/'nbs'/k).glob(f'{slug}_*.ipynb')]
    def place(p): return p.parent.name=='figures', int(''.join(filter(str.isdigit, p.stem)) or 99)
    def short(p): # T1, F11-16: the title says how far a page goes
        last = re.search(r'Figures \d+(?:-| and )(\d+):', p.read_text(encoding='utf-8'))
        return p.stem.removeprefix(f'{slug}_').replace('table', 'T').replace('fig', 'F') + (f'-{last[1]}' if last else '')
    def at(p): # its report, else its notebook
        report = Path('reports')/p.parent.name/f'{p.stem}.md'
        return (report if (settings.root()/report).exists() else p.relative_to(settings.root())).as_posix()
    return ' '.join(f'[{short(p)}]({at(p)})' for p in sorted(found, key=place))

def front(card:pd.DataFrame)->str: # of `scorecard`
    "The table, in Markdown: claims about quality by verdict, then claims about size."
    q,n = tally(card, 'quality'),tally(card, 'size').reindex(list(_pages.values()), fill_value=0)
    def row(s, p):
        open_ = q.loc[p, 'claims']-q.loc[p, 'judged']
        size = f"{n.loc[p, ['confirmed', 'confirmed as counted']].sum()} of {n.loc[p, 'claims']}" if n.loc[p, 'claims'] else ''
        cells = [*(q.loc[p, k] for k in ('confirmed', 'contradicted here', 'contradicted by the paper itself', 'alike')), open_, size]
        return f'| [{p}](nbs/papers/{s}.ipynb) | {_links(s)} | {" | ".join(map(str, cells))} |'
    head = 'paper | tables and figures | confirmed | contradicted here | by the paper itself | alike | open | sizes confirmed'
    return '\n'.join([f'| {head} |', '|---|---|'+'---|'*6, *(row(s, p) for s,p in _pages.items())])


# %% [markdown]
# It stands between two marks.

# %%
#| export
def to_readme(card:pd.DataFrame, file=None): # default the project's README
    "Put the table between its marks."
    file = Path(file or settings.root()/'README.md')
    a,b = '<!-- scorecard -->\n','\n<!-- /scorecard -->'
    text = file.read_text(encoding='utf-8')
    if a not in text or b not in text: raise ValueError(f'{file} has no {a.strip()} ... {b.strip()}: put the marks where the table should stand')
    head,rest = text.split(a, 1)
    return write(file, head+a+front(card)+b+rest.split(b, 1)[1])


# %%
t = pd.DataFrame([dict(paper=p, verdict='alike', kind=k) for p in _pages.values() for k in ('quality', 'size')])
with TemporaryDirectory() as d:
    f = Path(d)/'README.md'
    f.write_text('before\n<!-- scorecard -->\nstale\n<!-- /scorecard -->\nafter', 'utf-8')
    text = to_readme(t, f).read_text('utf-8')
    test_eq([text.startswith('before'), text.endswith('after'), 'stale' in text, text.count('\n| [')], [True, True, False, 5])
