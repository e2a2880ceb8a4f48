"Names of methods, scenes, columns, licences, in a report: text in every language, and never more."
import re
from html.parser import HTMLParser
import numpy as np, pandas as pd, pytest
from pansharp_nb import reporting
from pansharp_nb.data.synthetic import made_up

mark = '<img src=x onerror=alert(1)>'
odd = [mark, '"><script>alert(1)</script>', "' onload='x", '</pre></details><script>', '&lt;b&gt;', 'a|b', 'c\\d',
    '$x^2_', '50 % & #1 ~ {y}', 'one\ntwo', '[go](javascript:alert(1))', '{{ 7*7 }}', '\x1b[31m\u202e']
places = 'method scene sensor metric title banner said conclusion note caption heading column index cell parameter'.split()

def frame(names): # scores of two scenes, ever worse
    same = dict(protocol='reduced', seed=0, profile='user', weights='-')
    rows = [dict(method=m, scene=s, sensor=('QB', 'WV2')[s==names[0]], metric=k, value=i+1.) for i,m in enumerate(names)
        for s in names[:2] for k in ('ERGAS', 'PSNR')]
    return pd.DataFrame(rows).assign(**same)

class Tags(HTMLParser):
    "What a browser would make of a page: tags with their attributes, and text."
    def __init__(self, page):
        super().__init__()
        self.seen,self.text = set(),''
        self.feed(page)
    def handle_starttag(self, tag, attrs): self.seen |= {tag} | {f'{tag} {k}' for k,_ in attrs}
    def handle_data(self, data): self.text += data

@pytest.fixture(scope='module')
def harmless(tmp_path_factory):
    "Does a page hold no tag and no attribute that a page of plain names has not?"
    d,words = tmp_path_factory.mktemp('plain'),pd.DataFrame(dict(w=['words']))
    page = reporting.save(d, 'p', 'T', frame(['a', 'b']), {}, 'C.', {'c': 'AAAA'}, {'n': ['i']}, 'b', {'t': words})
    known = Tags(page.read_text('utf-8')).seen | {f'th {k}' for k in ('rowspan', 'valign', 'colspan', 'halign')}
    return lambda page: Tags(page.read_text('utf-8')).seen<=known

def put(name, where): # what `save` is given, with the name in one place
    kw = dict(title='T', scores=frame(['EXP', 'GSA']), prov=dict(a=1), conclusion='C.')
    if where in ('method', 'scene', 'sensor', 'metric'):
        kw['scores'] = kw['scores'].replace({where: {'EXP': name, 'QB': name, 'PSNR': name}})
    elif where=='note': kw['notes'] = {name: [name]}
    elif where=='caption': kw['figures'] = {name: 'AAAA'}
    elif where=='parameter': kw['prov'] = {name: name}
    elif where in ('title', 'banner', 'said', 'conclusion'): kw[where] = name
    else:
        n = {k: name if k==where else k for k in ('heading', 'column', 'index', 'cell')}
        rows = pd.Index([n['index'], 'j'], name=n['index'])
        kw['tables'] = {n['heading']: pd.DataFrame({n['column']: [n['cell'], 'w'], 'n': [1, 2]}, rows)}
    return kw

@pytest.mark.parametrize('name', odd, ids=ascii)
@pytest.mark.parametrize('where', places)
def test_a_name_is_a_name_in_every_language(tmp_path, harmless, where, name):
    kw = put(name, where)
    page = reporting.save(tmp_path, 'p', **kw)
    said = ' '.join(Tags(page.read_text('utf-8')).text.split())
    assert harmless(page) and (where in ('metric', 'caption', 'parameter') or reporting.plain(name) in said)
    md,tex = (page.with_suffix(f'.{e}').read_text('utf-8') for e in ('md', 'tex'))
    rows = [l.replace('\\\\', '') for l in md.splitlines() if l.startswith('|')]
    assert len({len(re.findall(r'(?<!\\)\|', l)) for l in rows})==1, 'a name makes no new cell'
    assert not re.search(r'<(img|script)|\]\(javascript', md)
    first,*body = tex.splitlines()
    assert first.startswith('% ') and body[0].startswith(r'\begin{tabular}') and body[-1]==r'\end{tabular}'
    assert not any(re.search(r'(?<!\\)[#%]', l) for l in body)

def test_two_axes_of_names(tmp_path, harmless):
    "Tables with two levels of rows or columns, numbers among words, cells that are empty."
    two = pd.MultiIndex.from_product([[mark, 'b'], ['x|y', 'z']], names=[f'{mark}2', 'n'])
    f = pd.DataFrame(np.arange(4.), two, [mark]).assign(word=[mark, None, 'c\\d', 'e'])
    for t in (f, f.T, f[['word']]):
        page = reporting.save(tmp_path, 'p', 'T', None, {}, 'C.', tables={'t': t}, said='s')
        assert harmless(page) and mark not in page.with_suffix('.md').read_text('utf-8')
        assert r'c\textbackslash{}d' in page.with_suffix('.tex').read_text('utf-8')

def test_an_empty_table(tmp_path, harmless):
    for f in (pd.DataFrame(columns=['a', 'b']), pd.DataFrame(index=['a'])):
        assert harmless(reporting.save(tmp_path, 'p', 'T', None, {}, 'C.', tables={'t': f}, said='s'))

def test_best_and_second_are_still_marked():
    text,rank = reporting.leaderboard(frame([mark, 'b|c', 'd']))
    said = [f(text, rank) for f in (reporting.to_html, reporting.to_md, reporting.to_tex)]
    assert all(w in t for w,t in zip(('<b>1.000', '**1.000', r'\textbf{1.000'), said))
    assert list(text.index)==[mark, 'b|c', 'd']

@pytest.mark.parametrize('name', ['$a^', r'\frac{', mark, 'a\nb', '$\\input{x}$', '\x00'])
def test_a_picture_of_an_odd_name(name):
    "Names are no mathematics: a dollar is a dollar."
    import matplotlib.pyplot as plt, torch
    assert reporting.jpeg(reporting.strip(torch.rand(1, 32, 32), {name: torch.rand(4, 32, 32)}, torch.rand(4, 32, 32)))
    plt.close('all')

def test_a_scene_with_markup_in_every_attribute(tmp_path, harmless):
    from pansharp_nb.scoring import score
    ds = made_up('QB', size=64).assign_attrs(name=mark, licence=mark, notes=mark, source=mark)
    scores = score(ds, methods='EXP,GSA')
    cap,fig = reporting.best_of_families(ds, scores, 'reduced')
    words = {mark: reporting.broken(scores)},reporting.banner(scores, [ds])
    assert harmless(reporting.save(tmp_path, 'p', 'T', scores, {}, mark, {cap: reporting.jpeg(fig)}, *words)) and mark in cap

def test_words_that_are_no_utf8(tmp_path):
    "A file name of undecodable bytes does not break a report after its work."
    scores = frame(['a\udcff', 'b'])
    assert '\\udcff' in reporting.save(tmp_path, 'p', 'T', scores, {}, 'C.').with_suffix('.csv').read_text('utf-8')
