"""The site, from the notebooks: nbdev processes them into _proc, Quarto (where it is on the PATH) renders them into _docs.

    python .ci/site.py             build, check links, alt texts, headings and sizes, exit status 1 if something is wrong
    python .ci/site.py --report F  the same, and write what was checked to F (json: name -> list of troubles)
"""
import argparse, base64, json, os, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
PROC, DOCS = ROOT/'_proc', ROOT/'_docs'
MAX_MB = 2 # of a page with its pictures

def process():
    "Fill _proc with the processed notebooks and everything else that the site needs from nbs/"
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    shutil.rmtree(PROC, ignore_errors=True)
    proc_nbs(n_workers=min(os.cpu_count() or 1, 4), force=True)
    if not notebooks(): raise RuntimeError(f'nbdev found no notebooks: does a folder in {ROOT} start with a dot?')
    for p in notebooks(): card(p)

def pictures(cell):
    "(kind, base64) of each picture among the outputs of `cell`"
    for o in cell.get('outputs', []):
        kind = next((k for k in ('image/png', 'image/jpeg') if k in o.get('data', {})), None)
        if kind: yield kind, ''.join(o['data'][kind])

def card(p):
    "Put the first picture of the notebook `p` beside it and into its front matter: previews of a link to the page show it"
    nb = json.loads(p.read_text(encoding='utf-8'))
    raw = next((c for c in nb['cells'] if c['cell_type'] == 'raw'), None)
    kind, data = next((o for c in nb['cells'] for o in pictures(c)), (None, None))
    if not raw or not kind or re.search('^image:', ''.join(raw['source']), re.M): return
    f = PROC/'cards'/f'{"_".join(p.relative_to(PROC).with_suffix("").parts)}.{"jpg" if kind.endswith("jpeg") else "png"}'
    f.parent.mkdir(exist_ok=True)
    f.write_bytes(base64.b64decode(data))
    raw['source'] = re.sub(r'\s*---\s*\Z', f'\nimage: /cards/{f.name}\n---\n\n', ''.join(raw['source']))
    p.write_text(json.dumps(nb), encoding='utf-8')

def notebooks(): return sorted(p for p in PROC.rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(PROC).parts))

def pages():
    "Notebook in _proc -> the page that Quarto makes of it"
    def name(p):
        raw = next((''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'raw'), '')
        m = re.search(r'^output-file: (\S+)', raw, re.M)
        return m[1] if m else p.with_suffix('.html').name
    return {p: p.with_name(name(p)) for p in notebooks()}

def prose(nb):
    "Everything in a notebook that the site shows as markdown, code blocks taken out"
    txt = []
    for c in nb['cells']:
        if c['cell_type'] == 'markdown': txt.append(''.join(c['source']))
        for o in c.get('outputs', []): txt.append(''.join(o.get('data', {}).get('text/markdown', '')))
    md = re.sub(r'^```.*?^```', '', '\n\n'.join(txt), flags=re.S | re.M)
    return re.sub(r'`[^`\n]*`(?!\])', '', md)

def troubles(p, made, home):
    "Links of the notebook `p` that lead nowhere, pictures without a text; `made`: all pages, `home`: the site's own address"
    md = prose(json.loads(p.read_text(encoding='utf-8')))
    links = re.findall(r'\]\(([^)\s]+)', md) + re.findall(r'(?:src|href)=["\']([^"\']+)', md)
    for link in links:
        if link.startswith(home):
            target = PROC/unquote(link[len(home):].lstrip('/').partition('#')[0] or 'index.html')
            if target not in made: yield f'{link}: the site has no such page'
        elif re.match(r'/|file:|[a-z]:[\\/]', link, re.I): yield f'{link}: an absolute path'
        elif re.match(r'[a-z][a-z0-9+.-]*:|#', link, re.I): continue
        else:
            target = (p.parent/unquote(re.split('[#?]', link)[0])).resolve()
            if not target.is_relative_to(PROC): yield f'{link}: outside nbs/, so not on the site (link to the repository instead)'
            elif not target.exists() and target not in made: yield f'{link}: no such file'
    for alt, src, attrs in re.findall(r'!\[([^\]]*)\]\(([^)\s]*)[^)]*\)(\{[^}]*\})?', md):
        if not alt.strip() and 'fig-alt=' not in attrs: yield f'{src}: picture without an alt text'
    for tag in re.findall(r'<img\b[^>]*>', md):
        if not re.search(r'\balt=["\'][^"\']', tag): yield f'{tag[:80]}: picture without an alt text'

def figures(nb):
    "Cells of a processed notebook, so of those that are shown, with pictures that have no text"
    for c in nb['cells']:
        src = ''.join(c['source'])
        if re.search(r'^#\|\s*(output|include):\s*false', src, re.M): continue
        html = '\n'.join(''.join(o.get('data', {}).get('text/html', '')) for o in c.get('outputs', []))
        bare = [o for o in re.findall(r'<img\b[^>]*>', html) if not re.search(r'\balt=["\'][^"\']', o)]
        if bare or (any(pictures(c)) and not re.search(r'^#\|\s*fig-alt:\s*["\']?\w', src, re.M)):
            line = next((o for o in src.splitlines() if o.strip() and not o.startswith('#|')), '')
            yield f'{line[:70]!r}: its picture has no fig-alt'

def headings(nb):
    "Headings that skip a level, counted from the title"
    level = 1
    for marks, text in re.findall(r'^(#{1,6})[ \t]+(\S.*)$', prose(nb), re.M):
        if len(marks) > level+1: yield f'{marks} {text[:60]}: a heading of level {len(marks)} after one of level {level}'
        level = len(marks)

CALLOUTS = {'note', 'tip', 'warning', 'important', 'caution'}
PAIRED = {'details', 'summary', 'div', 'span', 'table', 'thead', 'tbody', 'tr', 'td', 'th', 'p', 'a', 'b', 'i', 'em', 'strong', 'code', 'pre', 'ul', 'ol', 'li', 'figure', 'figcaption'}

class Tags(HTMLParser):
    "Tags of raw HTML that are opened and not closed, or closed and not opened"
    def __init__(self, html):
        super().__init__()
        self.open, self.wrong = [], []
        self.feed(html)
        self.wrong += [f'<{o}> is not closed' for o in self.open]
    def handle_starttag(self, tag, attrs):
        if tag in PAIRED: self.open.append(tag)
    def handle_endtag(self, tag):
        if tag not in PAIRED: return
        if self.open and self.open[-1] == tag: self.open.pop()
        elif tag in self.open:
            while self.open[-1] != tag: self.wrong.append(f'<{self.open.pop()}> is not closed before </{tag}>')
            self.open.pop()
        else: self.wrong.append(f'</{tag}> closes nothing')

def blocks(nb):
    "Fenced divs that do not end, callouts that Quarto does not know, code that is not closed, broken raw HTML"
    for c in nb['cells']:
        if c['cell_type'] != 'markdown': continue
        txt = ''.join(c['source'])
        where = txt.strip().splitlines()[0][:50] if txt.strip() else ''
        if len(re.findall(r'^ {0,3}(?:```|~~~)', txt, re.M)) % 2: yield f'{where!r}: code that is not closed'
        md = re.sub(r'^```.*?^```', '', txt, flags=re.S | re.M)
        depth = 0
        for colons, rest in re.findall(r'^(:{3,})[ \t]*(.*)$', md, re.M):
            depth += 1 if rest.strip() else -1
            if depth < 0: break
        if depth: yield f'{where!r}: the ::: of a block do not match'
        yield from (f'{o}: callouts are {", ".join(sorted(CALLOUTS))}' for o in re.findall(r'\.callout-(\w+)', md) if o not in CALLOUTS)
        yield from (f'{where!r}: {o}' for o in Tags(re.sub(r'`[^`\n]*`|<https?:[^>]*>|\$[^$\n]*\$', '', md)).wrong)

def anchors(nb):
    "Names that links into the page can use: of headings, as pandoc makes them, and those given by hand"
    md, have = prose(nb), set()
    for text in re.findall(r'^#{1,6}[ \t]+(\S.*)$', md, re.M):
        given = re.search(r'\{[^}]*#([\w.:-]+)[^}]*\}\s*$', text)
        text = re.sub(r'\{[^}]*\}\s*$', '', text)
        text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', text)
        text = re.sub(r'[^\w\s.-]', '', text).strip().lower()
        name = re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', text))
        have.add(given[1] if given else name or 'section')
    return have | set(re.findall(r'\bid=["\']([^"\']+)', md)) | set(re.findall(r'\{#([\w.:-]+)', md))

def broken_anchors(p, nb, known):
    "Links to places of pages that have no such place; `known`: page -> its anchors"
    for link in re.findall(r'\]\(([^)\s]*#[^)\s]+)', prose(nb)):
        if re.match(r'[a-z][a-z0-9+.-]*:', link, re.I): continue
        page, _, place = unquote(link).partition('#')
        target = (p.parent/page).resolve() if page else p
        if target in known and place not in known[target]: yield f'{link}: the page has no such heading'

def citations(nb, keys):
    "Papers that are cited and do not stand in references.bib"
    md = re.sub(r'\S+@\S+\.\w+', '', prose(nb)) # addresses
    yield from (f'@{o}: not in references.bib' for o in re.findall(r'(?<![\w@])@([a-z]+\d{4}[a-z]?)\b', md) if o not in keys)

def size(*files):
    "Too many megabytes for a page"
    mb = sum(f.stat().st_size for f in files)/2**20
    if mb > MAX_MB: yield f'{mb:.1f} MB, more than {MAX_MB}'

def sidebar():
    "Notebooks named in the hand-written sidebar, in its order"
    import yaml
    def walk(o):
        if isinstance(o, str): yield o
        elif isinstance(o, dict):
            if 'href' in o: yield o['href']
            yield from walk(o.get('contents', []))
        else:
            for x in o: yield from walk(x)
    cfg = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
    for o in walk(cfg['website']['sidebar']['contents']):
        yield from (sorted(p.relative_to(PROC).as_posix() for p in PROC.glob(o)) if '*' in o else [o])

class Links(HTMLParser):
    "The `href` of every link and the `src` of every picture of a page"
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page.read_text(encoding='utf-8'))
    def handle_starttag(self, tag, attrs):
        o = dict(attrs).get({'a': 'href', 'img': 'src'}.get(tag))
        if o: self.found.append(o)

def rendered(page):
    "Links of a finished page that lead nowhere"
    if not page.exists():
        yield f'{page.relative_to(DOCS)} was not made'
        return
    for link in Links(page).found:
        if re.match(r'[a-z][a-z0-9+.-]*:|#|/', link, re.I): continue
        target = (page.parent/unquote(re.split('[#?]', link)[0])).resolve()
        if not target.exists(): yield f'{link}: no such file'

def build():
    "Do everything; name of the check -> list of what is wrong"
    from nbdev.config import get_config
    os.chdir(ROOT)
    try: process()
    except Exception as e: return {'site: nbdev processes the notebooks': [str(e)]}
    cfg, res, made = get_config(), {'site: nbdev processes the notebooks': []}, pages()
    home = f"{cfg['doc_host']}{cfg['doc_baseurl']}"
    read = {p.resolve(): json.loads(p.read_text(encoding='utf-8')) for p in made}
    known = {p: anchors(nb) for p, nb in read.items()}
    bib = PROC/'references.bib'
    keys = set(re.findall(r'^@\w+\{([^,\s]+),', bib.read_text(encoding='utf-8'), re.M)) if bib.exists() else set()
    for p in made:
        nb = read[p.resolve()]
        bad = {*troubles(p, set(made.values()), home), *figures(nb), *headings(nb), *size(p), *blocks(nb), *broken_anchors(p.resolve(), nb, known), *citations(nb, keys)}
        res[f'site: {p.relative_to(PROC)} links, alt texts, headings, blocks, citations, size'] = sorted(bad)
    have, named = {p.relative_to(PROC).as_posix() for p in made}, list(sidebar())
    res['site: the sidebar names every notebook once'] = (
        [f'{o} is in _quarto.yml, but not in nbs/' for o in named if o not in have] +
        [f'{o} is not in _quarto.yml' for o in sorted(have) if named.count(o) == 0] +
        [f'{o} is named twice' for o in sorted(have) if named.count(o) > 1])
    if not shutil.which('quarto'): return res
    rc = subprocess.run(['quarto', 'render', '--no-cache', '--no-execute'], cwd=PROC, stdin=subprocess.DEVNULL).returncode
    res['site: quarto render'] = [f'quarto render ended with status {rc}'] if rc else []
    if rc: return res
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/DOCS.name, DOCS)
    for p, page in made.items():
        page, own = DOCS/page.relative_to(PROC), DOCS/p.relative_to(PROC).with_name(f'{p.stem}_files')
        res[f'site: page {page.relative_to(DOCS)}'] = sorted({*rendered(page), *(size(page, *own.rglob('*.*')) if page.exists() else ())})
    return res

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--report', help='file for the result')
    args = ap.parse_args()
    res = build()
    if args.report: Path(args.report).write_text(json.dumps(res, indent=1), encoding='utf-8')
    for name, bad in res.items():
        print(('ok      ' if not bad else 'FAILED  ') + name)
        for o in bad: print('          ' + o.replace('\n', '\n          '))
    if not shutil.which('quarto'): print('quarto is not on the PATH: the processed notebooks were checked, pages were not rendered')
    sys.exit(any(res.values()))

if __name__ == '__main__': main()
