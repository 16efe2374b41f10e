"""README.md is nbs/index.ipynb for people who come by GitHub: this makes it, without Quarto.

    python .ci/readme.py           write README.md, its pictures, nbs/images/readme_*, the commands' help pages, and the notebooks' cell
                                   for Colab (hub.py)
    python .ci/readme.py --check   change nothing; say what differs, exit status 1 if anything does
"""
import argparse, os, posixpath, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = 'nbs/images'
NOTE = '<!-- Made from nbs/index.ipynb by .ci/readme.py: edit the notebook, not this file. -->'

def process(path):
    "The notebook at `path` as nbdev gives it to the site: hidden cells gone, names in backticks linked"
    from importlib.metadata import entry_points
    from execnb.nbio import read_nb
    from nbdev.processors import FilterDefaults
    if not any(o.name == 'messi_anything' for o in entry_points(group='nbdev')):
        sys.exit('messi_anything is not installed, so nbdev cannot link its names: pip install -e ".[dev]"')
    os.environ['IN_TEST'] = '1'
    nb = read_nb(path)
    FilterDefaults()(nb)
    return nb

def directives(src):
    "The `#| key: value` lines above a cell's first line of code, and the code below them"
    lines, found = src.splitlines(), {}
    while lines and (m := re.match(r'#\|\s*([\w-]+):?\s*(.*)', lines[0])):
        found[m[1]] = m[2].strip().strip('"\'')
        lines.pop(0)
    return found, '\n'.join(lines).strip('\n')

def outside_code(md, f):
    "`md` with `f` applied to everything that is not in a fenced block"
    parts = re.split(r'(^```.*?^```[^\S\n]*$)', md, flags=re.S | re.M)
    return ''.join(o if i % 2 else f(o) for i, o in enumerate(parts))

def rebase(link):
    "A link that works in nbs/, rewritten so that it works one folder up"
    if re.match(r'[a-z][a-z0-9+.-]*:|[#/]', link, re.I): return link
    path, sep, rest = link.partition('#')
    return posixpath.normpath(posixpath.join('nbs', path)) + sep + rest

def plain(md):
    "Quarto's own markup turned into what GitHub shows, links rebased"
    md = re.sub(r'^:::+ *\{\.callout-(\w+)[^}]*\}\n(.*?)^:::+ *$',
                lambda m: '\n'.join('> ' + o for o in [f'**{m[1].title()}**', '', *m[2].strip().splitlines()]), md, flags=re.S | re.M)
    md = re.sub(r'^:::.*\n?', '', md, flags=re.M)
    def image(m):
        alt = m[1] or ''.join(re.findall(r'fig-alt="([^"]*)"', m[3] or ''))
        return f'![{alt}]({m[2]})'
    md = re.sub(r'!\[([^\]]*)\]\(([^)]*)\)(\{[^}]*\})?', image, md)
    md = re.sub(r'(^#+ .*?)[ \t]*\{[#.][^}]*\}[ \t]*$', r'\1', md, flags=re.M)
    md = re.sub(r'(\]\()([^)\s]+)', lambda m: m[1] + rebase(m[2]), md)
    return re.sub(r'((?:src|href)=["\'])([^"\']+)', lambda m: m[1] + rebase(m[2]), md)

def tidy(nb):
    "Do to the cells of the processed `nb` what Quarto would do; return the alt text of each cell's figures"
    front, cells, alts = {}, [], []
    for cell in nb.cells:
        src = ''.join(cell.get('source') or '')
        if not src.strip(): continue
        if cell.cell_type == 'raw':
            import yaml
            front = yaml.safe_load(src.strip().strip('-'))
            continue
        alt = ''
        if cell.cell_type == 'markdown':
            if src.startswith('<!-- WARNING'): continue
            src = outside_code(src, plain)
        else:
            found, src = directives(src)
            alt = found.get('fig-alt', '')
            off = {k for k, v in found.items() if v.lower() == 'false'}
            if 'include' in off: continue
            outs = [] if 'output' in off else [o for o in cell.get('outputs', []) if o.get('name') != 'stderr']
            cell['outputs'] = outs
            cell['metadata'] = {'transient': {'remove_source': True}} if 'echo' in off else {}
            if not outs and 'echo' in off: continue
        cell['source'] = src
        cells.append(cell)
        alts.append(alt)
    nb['cells'] = cells
    return front, alts

def render(path=ROOT/'nbs/index.ipynb'):
    "The text of README.md, and a dict of its pictures: path -> bytes"
    import nbformat
    from execnb.nbio import nb2str
    from nbconvert import MarkdownExporter
    from traitlets.config import Config
    nb = process(path)
    front, alts = tidy(nb)
    nb = nbformat.reads(nb2str(nb), as_version=4)
    nb.metadata['language_info'] = {'name': 'python'}
    kinds = ['text/markdown', 'image/svg+xml', 'image/png', 'image/jpeg', 'text/html', 'text/latex', 'text/plain']
    cfg = Config({'NbConvertBase': {'display_data_priority': kinds}})
    md, res = MarkdownExporter(config=cfg).from_notebook_node(nb, resources={'unique_key': 'readme'})
    made, pictures = res.get('outputs', {}), {}
    def picture(m):
        old = m[2]
        if old not in made: return m[0]
        name = f'{PICTURES}/readme_{len(pictures)+1}{Path(old).suffix}'
        pictures[name] = made[old]
        cell = int(re.match(r'readme_(\d+)_', old)[1])
        return f'![{alts[cell] or m[1]}]({name})'
    md = re.sub(r'!\[([^\]]*)\]\(([^)\s]+)\)', picture, md)
    head = f"# {front['title']}\n\n" + NOTE + '\n\n' + (f"> {front['description']}\n\n" if front.get('description') else '')
    md = '\n'.join(o.rstrip() for o in (head + md).splitlines())
    return outside_code(md, lambda o: re.sub(r'\n{3,}', '\n\n', o)).strip() + '\n', pictures

def differences(text, pictures):
    "What README.md and its pictures would have to change to be `text` and `pictures`"
    old = ROOT/'README.md'
    if not old.exists() or old.read_text(encoding='utf-8') != text: yield 'README.md is not what nbs/index.ipynb gives'
    for name, data in pictures.items():
        if not (ROOT/name).exists() or (ROOT/name).read_bytes() != data: yield f'{name} is not the picture in nbs/index.ipynb'
    for p in stale(pictures): yield f'{p} is no longer in nbs/index.ipynb'

def stale(pictures): return sorted(o for p in (ROOT/PICTURES).glob('readme_*') if (o := p.relative_to(ROOT).as_posix()) not in pictures)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--check', action='store_true', help='compare only')
    args = ap.parse_args()
    os.chdir(ROOT)
    import hub
    if not args.check and (moved := hub.put()): print(f'{len(moved)} notebooks have a new cell for Colab')
    text, pictures = render()
    diffs = list(differences(text, pictures))
    from messi_anything.commands import old_pages, write_pages
    if args.check:
        diffs += [f'the kept help page of {o} is not what the command says' for o in old_pages()]
        diffs += hub.differences()
        for o in diffs: print(o)
        if diffs: sys.exit('run: python .ci/readme.py')
        return print('README.md is what nbs/index.ipynb gives')
    for name in stale(pictures): (ROOT/name).unlink()
    for name, data in pictures.items():
        (ROOT/name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT/name).write_bytes(data)
    (ROOT/'README.md').write_text(text, encoding='utf-8')
    pages = write_pages()
    print(f'README.md: {len(text.splitlines())} lines, {len(pictures)} pictures' + ('' if diffs else ', as before'))
    if pages: print('help pages made anew: '+', '.join(pages))

if __name__ == '__main__': main()
