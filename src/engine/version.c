#include "polylepis/polylepis.h"

#define TEXT(x)         #x
#define DOTTED(a, b, c) TEXT(a) "." TEXT(b) "." TEXT(c)

const char *plp_version(void) { return DOTTED(PLP_VERSION_MAJOR, PLP_VERSION_MINOR, PLP_VERSION_PATCH); }
