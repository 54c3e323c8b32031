/* The engine that opens its own model. */
#include "engine/engine.h"

#include "base/error.h"

#include <stdio.h>

static plp_status check_comm(MPI_Comm comm)
{
    int begun = 0, over = 0, inter = 0;
    MPI_Initialized(&begun);
    MPI_Finalized(&over);
    if (!begun || over)
        return PLP_FAIL(PLP_ERR_USAGE, "MPI is %s; plp_engine_create; fix: call it between MPI_Init and MPI_Finalize",
                        over ? "finalised" : "not initialised");
    if (comm == MPI_COMM_NULL)
        return PLP_FAIL(PLP_ERR_USAGE, "comm is MPI_COMM_NULL; plp_engine_create; fix: let the ranks of the communicator alone call it");
    PLP_TRY(TP_MPI(MPI_Comm_test_inter(comm, &inter)));
    if (inter) return PLP_FAIL(PLP_ERR_USAGE, "comm is an inter-communicator; plp_engine_create; fix: give one of a single group of ranks");
    return PLP_OK;
}

plp_status plp_engine_create(plp_engine **e, MPI_Comm comm, const plp_engine_options *options)
{
    engine_session s;
    PLP_TRY(PLP_GIVEN(e, "engine"));
    *e = NULL;
    PLP_TRY(PLP_GIVEN(options, "options"));
    PLP_TRY(check_comm(comm));
    engine_options o = { .cache = options->cache,
                         .block = options->cache_block,
                         .max_slice = options->max_slice,
                         .ahead = options->ahead,
                         .trust = options->trust_model };
    plp_status st = engine_session_open(&s, comm, options, 0);
    if (st == PLP_OK) {
        snprintf(o.digest, sizeof o.digest, "%s", model_source_digest(s.source));
        st = tp_agree(s.group, engine_create(e, s.model, s.tokenizer, &o));
    }
    if (st == PLP_OK) {
        *engine_session_of(*e) = s;
        return PLP_OK;
    }
    engine_destroy(e);
    engine_session_close(&s);
    return st;
}

void plp_engine_destroy(plp_engine **e)
{
    if (e == NULL || *e == NULL) return;
    engine_session s = *engine_session_of(*e);
    engine_destroy(e);
    engine_session_close(&s);
}
