/* src/kernels/cuda/graph.cu -- a step kept as a CUDA graph: one launch instead of hundreds. */
#include "kernels/cuda/common.cuh"

#include <new>

struct kn_graph {
    cudaGraphExec_t exec;
};

plp_status kn_capture_begin_cuda(kn_context *c) { return KN_CUDA(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal)); }

plp_status kn_capture_end_cuda(kn_context *c, kn_graph **out)
{
    plp_status st;
    cudaGraph_t graph = NULL;
    kn_graph *g = NULL;
    *out = NULL;
    PLP_DO(KN_CUDA(cudaStreamEndCapture(c->stream, &graph)));
    g = new (std::nothrow) kn_graph();
    PLP_DO(PLP_ALLOCATED(g));
    PLP_DO(KN_CUDA(cudaGraphInstantiate(&g->exec, graph, 0)));
done:
    if (graph) cudaGraphDestroy(graph);
    if (st != PLP_OK) delete g;
    else *out = g;
    return st;
}

plp_status kn_replay_cuda(kn_context *c, kn_graph *g) { return KN_CUDA(cudaGraphLaunch(g->exec, c->stream)); }

void kn_graph_destroy_cuda(kn_context *, kn_graph **g)
{
    if (*g == NULL) return;
    cudaGraphExecDestroy((*g)->exec);
    delete *g;
    *g = NULL;
}
