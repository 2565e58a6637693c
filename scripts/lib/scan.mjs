// Reads C, C++, TypeScript and JavaScript just well enough to measure functions: comments and literals
// are blanked out, then braces are counted. Line numbers stay those of the file.

/** The text with comments, strings, templates and regular expressions replaced by spaces. */
export function blankLiterals(text, language) {
  let out = '';
  let at = 0;
  while (at < text.length) {
    const end = literalEnd(text, at, language);
    if (end > at) {
      out += text.slice(at, end).replace(/[^\n]/g, ' ');
      at = end;
    } else {
      out += text[at++];
    }
  }
  return out;
}

/** Where the comment or literal that begins at `at` ends; `at` itself when none begins there. */
function literalEnd(text, at, language) {
  const two = text.slice(at, at + 2);
  if (two === '//') return indexAfter(text, '\n', at) - 1;
  if (two === '/*') return indexAfter(text, '*/', at + 2);
  const character = text[at];
  if (language === 'c++' && two === 'R"') return rawStringEnd(text, at);
  if (character === '"') return quotedEnd(text, at, '"');
  if (character === "'" && !isDigitSeparator(text, at, language)) return quotedEnd(text, at, "'");
  if (language === 'c++') return at;
  if (character === '`') return templateEnd(text, at);
  if (
    character === '/' &&
    /[(,=:[!&|?{};]\s*$|\breturn\s*$/.test(text.slice(Math.max(0, at - 20), at))
  ) {
    return regexEnd(text, at);
  }
  return at;
}

const isDigitSeparator = (text, at, language) =>
  language === 'c++' && /[0-9a-f]/i.test(text[at - 1]);

function indexAfter(text, what, from) {
  const index = text.indexOf(what, from);
  return index < 0 ? text.length + (what === '\n' ? 1 : 0) : index + what.length;
}

function rawStringEnd(text, at) {
  const delimiter = text.slice(at + 2, text.indexOf('(', at));
  return indexAfter(text, `)${delimiter}"`, at);
}

function quotedEnd(text, at, quote) {
  let end = at + 1;
  while (end < text.length && text[end] !== quote && text[end] !== '\n') {
    end += text[end] === '\\' ? 2 : 1;
  }
  return Math.min(end + 1, text.length);
}

function templateEnd(text, at) {
  let end = at + 1;
  let depth = 0;
  while (end < text.length && (depth > 0 || text[end] !== '`')) {
    if (text[end] === '\\') end += 2;
    else if (depth > 0 && text[end] === '`') end = templateEnd(text, end);
    else {
      if (text.startsWith('${', end)) depth++;
      else if (text[end] === '}' && depth > 0) depth--;
      end++;
    }
  }
  return end + 1;
}

function regexEnd(text, at) {
  let end = at + 1;
  let inClass = false;
  while (end < text.length && text[end] !== '\n' && (inClass || text[end] !== '/')) {
    if (text[end] === '\\') end++;
    else if (text[end] === '[') inClass = true;
    else if (text[end] === ']') inClass = false;
    end++;
  }
  return end + 1;
}

/** Outermost functions of a file: { name, line, lines }. Test-suite callbacks are looked into. */
export function functions(text, language) {
  const clean = blankLiterals(text, language).replace(/^\s*#.*(\\\n.*)*$/gm, '');
  const found = [];
  const stack = [];
  let head = '';
  let line = 1;
  let depth = 0;
  for (const character of clean) {
    if (character === '\n') line++;
    if (character === '{') {
      const isFunction = depth === 0 && opensFunction(head, language);
      stack.push({ isFunction, line: line - lastLines(head), name: nameOf(head) });
      if (isFunction) depth++;
    } else if (character === '}') {
      const block = stack.pop();
      if (block?.isFunction) {
        depth--;
        found.push({ name: block.name, line: block.line, lines: line - block.line + 1 });
      }
    }
    head = /[;{}]/.test(character) ? '' : head + character;
  }
  return found;
}

const lastLines = (head) => head.trimStart().split('\n').length - 1;

const nameOf = (head) => /([\w~:]+)\s*(?:=[^=]*)?\(/.exec(head)?.[1] ?? '(anonymous)';

function opensFunction(head, language) {
  const text = head.trim();
  if (
    /^(if|for|while|switch|catch|else|do|try|return|class|namespace|enum|union|extern)\b/.test(text)
  ) {
    return false;
  }
  if (language === 'c++') {
    return text.includes(')') && !/^(struct|class)\b|=\s*$/.test(text);
  }
  if (/^(describe|suite)\b/.test(text)) return false;
  return /=>\s*$|\bfunction\b|\)\s*(:[^=]*)?$/.test(text);
}
