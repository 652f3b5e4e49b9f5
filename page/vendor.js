// What the page takes of others, as one module. Belongs here: names. The page's own code is in blyan/api/page and is not built.
export { EditorState, Compartment } from "@codemirror/state";
export {
  EditorView,
  keymap,
  lineNumbers,
  highlightActiveLine,
  highlightSpecialChars,
  drawSelection,
  placeholder,
} from "@codemirror/view";
export { defaultKeymap, history, historyKeymap, indentWithTab, temporarilySetTabFocusMode } from "@codemirror/commands";
export { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from "@codemirror/autocomplete";
export { bracketMatching, HighlightStyle, syntaxHighlighting } from "@codemirror/language";
export { sql, SQLDialect, PostgreSQL } from "@codemirror/lang-sql";
export { setDiagnostics } from "@codemirror/lint";
export { tags } from "@lezer/highlight";
export { default as uPlot } from "uplot";
