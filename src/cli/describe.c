#include "cli/describe.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    const cli_description *commands;
    int n;
} list;

/* What a shell may offer behind an option. */
typedef enum { NOTHING, WORDS, FILES } offer;
static offer offered(const plp_option *o)
{
    if (o->kind == PLP_OPTION_CHOICE) return WORDS;
    return plp_option_is_path(o) ? FILES : NOTHING;
}

/* The text with each of `special` behind a backslash, and line feeds as blanks; an apostrophe as a quoted shell word needs it. */
static void put(const char *text, const char *special, bool quoted)
{
    for (const char *p = text; *p; p++) {
        if (*p == '\'' && quoted) {
            fputs("'\\''", stdout);
            continue;
        }
        if (strchr(special, *p) != NULL) putchar('\\');
        putchar(*p == '\n' ? ' ' : *p);
    }
}

static void put_choices(const plp_option *o)
{
    for (const char *p = o->argument; *p; p++) putchar(*p == '|' ? ' ' : *p);
}

/* ---------------------------------------------------------------------------------------------------------------------- bash */
static void bash_names(const cli_description *d)
{
    printf("        options='");
    for (int t = 0; t < d->count; t++)
        for (int i = 0; i < d->tables[t].count; i++) {
            const plp_option *o = &d->tables[t].option[i];
            printf("%s%s%s%s", t + i ? " " : "", o->letter ? o->letter : "", o->letter ? " " : "", o->name);
        }
    printf("'\n");
}

static void bash_values(const cli_description *d)
{
    printf("        case $before in\n");
    for (int t = 0; t < d->count; t++)
        for (int i = 0; i < d->tables[t].count; i++) {
            const plp_option *o = &d->tables[t].option[i];
            const offer what = offered(o);
            if (o->kind == PLP_OPTION_FLAG) continue;
            printf("        %s%s%s) ", o->letter ? o->letter : "", o->letter ? "|" : "", o->name);
            if (what == WORDS) {
                printf("values='");
                put_choices(o);
                printf("' ;;\n");
            } else
                printf("%s ;;\n", what == FILES ? "return" : "values=' '");
        }
    printf("        esac ;;\n");
}

static void bash(const list *l)
{
    printf("# bash completion of polylepis, written by `polylepis --describe bash`.\n"
           "_polylepis()\n{\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} options='' values=''\n"
           "    COMPREPLY=() # empty: file names\n"
           "    if [[ $word == = ]]; then\n        word=''\n"
           "    elif [[ $before == = ]]; then\n        before=${COMP_WORDS[COMP_CWORD-2]}\n    fi\n"
           "    if (( COMP_CWORD == 1 )) || [[ $before == help ]]; then\n        values='");
    for (int i = 0; i < l->n; i++) printf("%s ", l->commands[i].command->name);
    printf("help version --help --version'\n    fi\n    case ${COMP_WORDS[1]} in\n");
    for (int i = 0; i < l->n; i++) {
        printf("    %s)\n", l->commands[i].command->name);
        bash_names(&l->commands[i]);
        bash_values(&l->commands[i]);
    }
    printf("    esac\n"
           "    if [[ -n $values ]]; then\n        compopt +o default 2>/dev/null\n        mapfile -t COMPREPLY < <(compgen -W \"$values\" "
           "-- \"$word\")\n"
           "    elif [[ $word == -* ]]; then\n        mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$word\")\n    fi\n"
           "}\n"
           "complete -o default -F _polylepis polylepis\n");
}

/* ----------------------------------------------------------------------------------------------------------------------- zsh */
static void zsh_option(const plp_option *o)
{
    const bool value = o->kind != PLP_OPTION_FLAG;
    printf(" \\\n        ");
    if (o->kind == PLP_OPTION_TEXTS) printf("'*'");
    if (o->kind != PLP_OPTION_TEXTS && o->letter) printf("'(%s %s)'", o->letter, o->name);
    if (o->letter)
        printf("{%s,%s%s}", o->letter, o->name, value ? "=" : "");
    else
        printf("%s%s", o->name, value ? "=" : "");
    printf("'[");
    put(o->help, "[]\\", true);
    putchar(']');
    if (value) {
        putchar(':');
        put(o->argument, ":\\", true);
        putchar(':');
        if (offered(o) == FILES) printf("_files");
        if (offered(o) == WORDS) {
            putchar('(');
            put_choices(o);
            putchar(')');
        }
    }
    putchar('\'');
}

static void zsh(const list *l)
{
    printf("#compdef polylepis\n# zsh completion, written by `polylepis --describe zsh`.\nlocal -a commands\ncommands=(\n");
    for (int i = 0; i < l->n; i++) {
        printf("    '%s:", l->commands[i].command->name);
        put(l->commands[i].command->summary, ":\\", true);
        printf("'\n");
    }
    printf("    'help:the text of a command'\n    'version:versions of the program and its libraries'\n)\n"
           "if (( CURRENT == 2 )) || [[ ${words[2]} == help ]]; then\n    _describe command commands\n    return\nfi\n"
           "local command=${words[2]}\nshift words\n(( CURRENT-- ))\ncase $command in\n");
    for (int i = 0; i < l->n; i++) {
        const cli_description *d = &l->commands[i];
        printf("%s)\n    _arguments -s", d->command->name);
        for (int t = 0; t < d->count; t++)
            for (int j = 0; j < d->tables[t].count; j++) zsh_option(&d->tables[t].option[j]);
        if (d->command->most > 0) printf(" \\\n        '*:file:_files'");
        printf(" ;;\n");
    }
    printf("esac\n");
}

/* ----------------------------------------------------------------------------------------------------------------------- man */
static void man_table(const plp_option_table *table)
{
    for (int i = 0; i < table->count; i++) {
        const plp_option *o = &table->option[i];
        printf(".TP\n");
        if (o->letter) {
            printf("\\fB");
            put(o->letter, "-\\", false);
            printf("\\fR, ");
        }
        printf("\\fB");
        put(o->name, "-\\", false);
        printf("\\fR");
        if (o->kind != PLP_OPTION_FLAG) {
            printf(" \\fI");
            put(o->argument, "-\\", false);
            printf("\\fR");
        }
        printf("\n\\&"); /* a text that begins with a dot is text */
        put(o->help, "-\\", false);
        putchar('\n');
    }
}

static bool has_table(const cli_description *d, const plp_option *options)
{
    for (int t = 0; t < d->count; t++)
        if (d->tables[t].option == options) return true;
    return false;
}

/* A table that several commands share comes once, behind those of single commands. */
static void man_shared(const list *l, int first, const plp_option_table *table)
{
    for (int i = 0; i < first; i++)
        if (has_table(&l->commands[i], table->option)) return;
    printf(".SS %s options\nOf", table->title);
    for (int i = first, found = 0; i < l->n; i++)
        if (has_table(&l->commands[i], table->option)) {
            printf("%s\n.B ", found++ ? "," : "");
            put(l->commands[i].command->name, "-\\", false);
        }
    printf("\n");
    man_table(table);
}

static void man(const list *l)
{
    printf(".SH OPTIONS\n.\\\" Written by `polylepis --describe man`.\n");
    for (int i = 0; i < l->n; i++) {
        const cli_description *d = &l->commands[i];
        printf(".SS polylepis ");
        put(d->command->usage, "-\\", false);
        printf("\n");
        put(d->command->summary, "-\\", false);
        putchar('\n');
        for (int t = 0; t < d->count; t++)
            if (d->tables[t].option == d->command->options) man_table(&d->tables[t]);
    }
    for (int i = 0; i < l->n; i++)
        for (int t = 0; t < l->commands[i].count; t++)
            if (l->commands[i].tables[t].option != l->commands[i].command->options) man_shared(l, i, &l->commands[i].tables[t]);
}

static const struct {
    const char *name;
    void (*print)(const list *l);
} forms[] = { { "bash", bash }, { "zsh", zsh }, { "man", man } };
enum { FORMS = sizeof forms / sizeof *forms };

bool cli_describes(const char *form)
{
    for (int i = 0; i < FORMS; i++)
        if (strcmp(form, forms[i].name) == 0) return true;
    return false;
}

void cli_describe(const char *form, const cli_description *commands, int n)
{
    for (int i = 0; i < FORMS; i++)
        if (strcmp(form, forms[i].name) == 0) forms[i].print(&(list){ commands, n });
}
