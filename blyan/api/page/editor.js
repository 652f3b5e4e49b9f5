// The SQL editor. Belongs here: CodeMirror, set up for this dialect and these tables. Does not belong here: running statements.
import {
  EditorState, Compartment, EditorView, keymap, lineNumbers, highlightActiveLine, highlightSpecialChars, drawSelection, placeholder,
  defaultKeymap, history, historyKeymap, indentWithTab, temporarilySetTabFocusMode, autocompletion, closeBrackets, closeBracketsKeymap,
  completionKeymap, bracketMatching, HighlightStyle, syntaxHighlighting, sql, SQLDialect, PostgreSQL, setDiagnostics, tags,
} from "./vendor.js";

const OWN_WORDS = "asof exclude ilike pivot positional qualify sample semi anti summarize describe unnest lambda columns";
const DUCKDB = SQLDialect.define({ ...PostgreSQL.spec, keywords: `${PostgreSQL.spec.keywords} ${OWN_WORDS}`, doubleDollarQuotedStrings: true });

const STILL = matchMedia("(prefers-reduced-motion: reduce)").matches;

const STYLE = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--keyword)" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--string)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--number)" },
  { tag: tags.comment, color: "var(--dim)", fontStyle: "italic" },
  { tag: tags.typeName, color: "var(--type)" },
]);

const THEME = EditorView.theme({
  "&": { backgroundColor: "var(--field)", color: "var(--ink)", fontSize: "14px", maxHeight: "45vh" },
  "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-1px" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.5", minHeight: "7.5em", overflow: "auto" },
  ".cm-content": { caretColor: "var(--ink)" },
  ".cm-gutters": { backgroundColor: "var(--field)", color: "var(--dim)", border: "none" },
  ".cm-activeLine": { backgroundColor: "transparent" },
  "&.cm-focused .cm-activeLine": { backgroundColor: "var(--hover)" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": { background: "var(--selection) !important" },
  ".cm-cursor": { borderLeftColor: "var(--ink)" },
  ".cm-placeholder": { color: "var(--dim)" },
  ".cm-tooltip": { backgroundColor: "var(--raised)", color: "var(--ink)", border: "1px solid var(--line)", borderRadius: "6px", overflow: "hidden" },
  ".cm-tooltip.cm-tooltip-autocomplete > ul > li[aria-selected]": { backgroundColor: "var(--accent)", color: "var(--on-accent)" },
  ".cm-completionDetail": { color: "inherit", fontStyle: "normal", marginLeft: "1.5em" },
  ".cm-diagnostic": { padding: "4px 8px" },
  ".cm-lintRange-error": { backgroundImage: "none", textDecoration: "underline wavy var(--bad)", textUnderlineOffset: "3px" },
});

export class Editor {
  /** `host` gets a shadow root, where styles are adopted: a style element of a document would be refused by the policy of the page. */
  constructor(host, { doc, run, explain, changed, describedBy }) {
    this._names = new Compartment();
    const root = host.attachShadow({ mode: "open" });
    const commands = [
      { key: "Mod-Enter", run: () => (run(), true), preventDefault: true },
      { key: "Mod-Shift-Enter", run: () => (explain(), true), preventDefault: true },
    ];
    this.view = new EditorView({
      root,
      parent: root,
      state: EditorState.create({
        doc,
        extensions: [
          keymap.of([...commands, ...closeBracketsKeymap, ...completionKeymap]),
          keymap.of([{ key: "Escape", run: temporarilySetTabFocusMode }, ...defaultKeymap, ...historyKeymap, indentWithTab]),
          lineNumbers(), highlightActiveLine(), highlightSpecialChars(), drawSelection({ cursorBlinkRate: STILL ? 0 : 1200 }), history(), closeBrackets(), bracketMatching(),
          autocompletion({ icons: false }), syntaxHighlighting(STYLE), THEME, EditorView.lineWrapping, placeholder("select …"),
          this._names.of(sql({ dialect: DUCKDB })),
          EditorView.contentAttributes.of({ "aria-label": "SQL statement", "aria-description": describedBy, spellcheck: "false", autocorrect: "off", autocapitalize: "off" }),
          EditorView.updateListener.of((update) => update.docChanged && changed(update.state.doc.toString())),
        ],
      }),
    });
  }

  get text() {
    return this.view.state.doc.toString();
  }

  set text(text) {
    this.view.dispatch({ changes: { from: 0, to: this.view.state.doc.length, insert: text }, selection: { anchor: text.length } });
  }

  /** Complete the names of these tables, `[{name, meaning, columns}]`. */
  know(tables) {
    const schema = {};
    for (const { name, meaning, columns } of tables) {
      const [folder, table] = name.split(".");
      schema[folder] ??= {};
      schema[folder][table] = {
        self: { label: table, type: "table", info: meaning },
        children: columns.map((column) => ({ label: column.name, detail: column.type.length > 24 ? "struct" : column.type.toLowerCase(), info: column.meaning, type: "property" })),
      };
    }
    this.view.dispatch({ effects: this._names.reconfigure(sql({ dialect: DUCKDB, schema })) });
  }

  insert(text) {
    this.view.dispatch(this.view.state.replaceSelection(text));
    this.view.focus();
  }

  /** Underline what a problem is about: the word at its position. */
  blame(problem) {
    const spot = problem?.position && wordAt(problem.position, this.view.state.doc);
    this.view.dispatch(setDiagnostics(this.view.state, spot ? [{ ...spot, severity: "error", message: problem.detail.split("\n")[0] }] : []));
  }

  focus() {
    this.view.focus();
  }
}

function wordAt({ line: number, column }, doc) {
  if (number > doc.lines) return null;
  const line = doc.line(number);
  const from = Math.min(line.to, line.from + [...line.text].slice(0, column - 1).join("").length); // columns are characters, which may be two units here
  const word = /^'[^']*'|^[\w."]+|^./u.exec(line.text.slice(from - line.from))?.[0] ?? "";
  return word ? { from, to: from + word.length } : { from: Math.max(0, from - 1), to: from };
}
