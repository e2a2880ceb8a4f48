"The way through the site: every page can be reached, Learn pages keep their form, and links of one setting."
import json, re, runpy, shutil
from pathlib import Path
import nbformat, pytest

root = Path(__file__).parents[1]
nbs = root/'nbs'
pages = sorted(p for p in nbs.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
learn = [nbs/'learn'/f'{n}.ipynb' for n in 'pansharpening protocols metrics classical network'.split()]

def name(p): return p.relative_to(nbs).with_suffix('').as_posix()
def prose(p): return '\n\n'.join(c.source for c in nbformat.read(p, 4).cells if c.cell_type=='markdown')

def entries(text): # of the toctrees in a page
    for block in re.findall(r'```\{toctree\}\n(.*?)```', text, re.S):
        yield from (l.split('<')[-1].rstrip('>') for l in block.split('\n') if l and l[0]!=':')

def test_every_page_is_in_a_toctree():
    listed = list(entries(prose(nbs/'index.ipynb')))
    assert len(listed)==len(set(listed)), 'a page stands in two toctrees'
    assert {name(p) for p in pages}-{'index'} <= {*listed}
    assert [e for e in listed if e not in ('self', 'api/index') and not any((nbs/f'{e}.{k}').exists() for k in ('ipynb', 'md'))]==[]

def test_learn_pages_are_all_here(): assert sorted(learn)==sorted((nbs/'learn').glob('*.ipynb'))

@pytest.mark.parametrize('page', learn, ids=name)
def test_a_learn_page_teaches(page):
    "At most 1,200 words, a summary, three exercises with folded answers, and a way on."
    text,cells = prose(page),nbformat.read(page, 4).cells
    words = len(re.sub(r'<[^>]*>|[#*|$]', ' ', text).split())
    assert 400<words<=1200, words
    assert '## Summary' in text and '**Next:**' in text.split('## Exercises')[1]
    assert re.findall(r'(?m)^\*\*(\d)\.\*\*', text)==['1', '2', '3']
    assert text.count('<details><summary>Answer</summary>')==text.count('</details>')==3
    first = next(i for i,c in enumerate(cells) if any('image/png' in o.get('data', {}) for o in c.get('outputs', [])))
    assert sum(len(c.source.split()) for c in cells[:first] if c.cell_type=='markdown')<150, 'a picture early'
    assert not any('#| export' in c.source for c in cells)

def test_links_between_pages_are_notebooks():
    "Links to a page end in .ipynb or .md and lead somewhere."
    for p in (*learn, *(nbs/'do').glob('*.ipynb'), nbs/'index.ipynb'):
        for at in re.findall(r'\]\(([^)#\s]+)[^)]*\)', prose(p)):
            if not at.startswith('http'): assert (p.parent/at).resolve().is_file(), (name(p), at)

def conf(folder, monkeypatch, address=''): # nbs/conf.py of a project with this address
    (folder/'nbs').mkdir(parents=True)
    shutil.copy(nbs/'conf.py', folder/'nbs')
    urls = f'[project.urls]\nRepository = "{address}"\n'*bool(address)
    (folder/'pyproject.toml').write_text((root/'pyproject.toml').read_text('utf-8')+urls, 'utf-8')
    monkeypatch.setattr(shutil, 'which', lambda *_: None) # MathJax is not fetched here
    return runpy.run_path(folder/'nbs'/'conf.py')

def test_colab_follows_one_setting(tmp_path, monkeypatch):
    "No address, no link; with one, the pages that install the package can be opened, and no other."
    def shown(c, p):
        source = [p.read_text('utf-8')]
        c['_colab'](None, name(p), source)
        return [''.join(x['source']) for x in json.loads(source[0])['cells'] if 'colab.research' in ''.join(x['source'])]
    none = conf(tmp_path/'a', monkeypatch)
    some = conf(tmp_path/'b', monkeypatch, 'https://github.com/someone/pansharp_nb/')
    assert none['author'].strip() and shown(none, learn[0])==[]
    at = 'https://colab.research.google.com/github/someone/pansharp_nb/blob/main/nbs/learn/pansharpening.ipynb'
    assert shown(some, learn[0])==[f'[Open in Colab]({at})'] and shown(some, nbs/'scoring.ipynb')==[]

def test_a_page_for_colab_installs_first():
    "What a page imports comes after the cell that installs the package where it is absent."
    for p in (*learn, *(nbs/'do').glob('*.ipynb'), nbs/'index.ipynb'):
        code = [c.source for c in nbformat.read(p, 4).cells if c.cell_type=='code']
        at = next(i for i,c in enumerate(code) if "find_spec('pansharp_nb')" in c)
        assert not any('import' in c and 'pansharp_nb' in c for c in code[:at]), name(p)
