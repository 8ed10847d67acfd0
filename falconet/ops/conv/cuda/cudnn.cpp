// NVIDIA's cuDNN, found when it is asked for: every engine that its convolution interface offers is a config, so that falconet's algorithms stand beside
// them in one table. An engine that cuDNN does not support for a problem is left out (its workspace query says so). Engines that sum by atomic
// additions carry deterministic:0 and run in bench alone. Descriptors are made once for a problem; the config descriptors_each:1 makes and destroys
// them with every call, which is what Li, Goebel and Fu's Figure 6 is about (host time: see it with launches=calls).
// f32 problems run without TF32 unless they allow it. Limits: plain problems, the same padding before and after, f32 or bf16.
#include <cuda_runtime.h>

#include <cstdint>
#include <list>
#include <mutex>

#include "falconet/base/error.h"
#include "falconet/device/cuda/vendor_library.h"
#include "falconet/ops/conv/cuda/algorithms.h"

namespace falconet {
namespace {

// The few facts of cudnn.h that are needed, as NVIDIA documents them; they are a part of its stable interface.
using Status = int;                                        // 0: success
using Handle = struct CudnnHandle*;
using Tensor4 = struct CudnnTensor*;
using Filter4 = struct CudnnFilter*;
using Geometry = struct CudnnConvolution*;
enum : int { type_f32 = 0, type_bf16 = 9, format_nchw = 0, format_nhwc = 1, cross_correlation = 1, math_default = 0, math_fma = 3 };

struct Engine {
  char const* name;
  int number;                                              // cudnnConvolutionFwdAlgo_t and its like
  bool deterministic = true;
};
// Best guess first. algo_0, algo_1, algo_3: so the library calls the gradients' implicit products.
constexpr Engine forward[] = {{"implicit_precomp_gemm", 1}, {"implicit_gemm", 0}, {"gemm", 2}, {"direct", 3}, {"fft", 4}, {"fft_tiling", 5}, {"winograd", 6}, {"winograd_nonfused", 7}};
constexpr Engine data[] = {{"algo_1", 1}, {"fft", 2}, {"fft_tiling", 3}, {"winograd", 4}, {"winograd_nonfused", 5}, {"algo_0", 0, false}};
constexpr Engine filter[] = {{"algo_1", 1}, {"fft", 2}, {"fft_tiling", 6}, {"winograd_nonfused", 5}, {"algo_0", 0, false}, {"algo_3", 3, false}};

std::span<Engine const> engines_of(Direction d) {
  if (d == Direction::fwd) return forward;
  if (d == Direction::bwd_data) return data;
  return filter;
}

struct Library : VendorLibrary {
  Library() : VendorLibrary({"libcudnn.so.9", "libcudnn.so"}) {
    if (!missing().empty()) return;
    find(create, "cudnnCreate");
    find(set_stream, "cudnnSetStream");
    find(tensor_create, "cudnnCreateTensorDescriptor"), find(tensor_destroy, "cudnnDestroyTensorDescriptor"), find(tensor_set, "cudnnSetTensor4dDescriptor");
    find(filter_create, "cudnnCreateFilterDescriptor"), find(filter_destroy, "cudnnDestroyFilterDescriptor"), find(filter_set, "cudnnSetFilter4dDescriptor");
    find(geometry_create, "cudnnCreateConvolutionDescriptor"), find(geometry_destroy, "cudnnDestroyConvolutionDescriptor");
    find(geometry_set, "cudnnSetConvolution2dDescriptor"), find(geometry_groups, "cudnnSetConvolutionGroupCount"), find(geometry_math, "cudnnSetConvolutionMathType");
    find(forward_workspace, "cudnnGetConvolutionForwardWorkspaceSize"), find(forward_run, "cudnnConvolutionForward");
    find(data_workspace, "cudnnGetConvolutionBackwardDataWorkspaceSize"), find(data_run, "cudnnConvolutionBackwardData");
    find(filter_workspace, "cudnnGetConvolutionBackwardFilterWorkspaceSize"), find(filter_run, "cudnnConvolutionBackwardFilter");
    if (missing().empty() && create(&handle) != 0) refuse("cudnnCreate failed");
  }
  Status (*create)(Handle*) = nullptr;
  Status (*set_stream)(Handle, cudaStream_t) = nullptr;
  Status (*tensor_create)(Tensor4*) = nullptr;
  Status (*tensor_destroy)(Tensor4) = nullptr;
  Status (*tensor_set)(Tensor4, int format, int type, int n, int c, int h, int w) = nullptr;
  Status (*filter_create)(Filter4*) = nullptr;
  Status (*filter_destroy)(Filter4) = nullptr;
  Status (*filter_set)(Filter4, int type, int format, int k, int c, int h, int w) = nullptr;
  Status (*geometry_create)(Geometry*) = nullptr;
  Status (*geometry_destroy)(Geometry) = nullptr;
  Status (*geometry_set)(Geometry, int pad_h, int pad_w, int stride_h, int stride_w, int dilation_h, int dilation_w, int mode, int type) = nullptr;
  Status (*geometry_groups)(Geometry, int) = nullptr;
  Status (*geometry_math)(Geometry, int) = nullptr;
  Status (*forward_workspace)(Handle, Tensor4 x, Filter4, Geometry, Tensor4 y, int engine, std::size_t*) = nullptr;
  Status (*data_workspace)(Handle, Filter4, Tensor4 dy, Geometry, Tensor4 dx, int engine, std::size_t*) = nullptr;
  Status (*filter_workspace)(Handle, Tensor4 x, Tensor4 dy, Geometry, Filter4, int engine, std::size_t*) = nullptr;
  Status (*forward_run)(Handle, void const* alpha, Tensor4, void const* x, Filter4, void const* w, Geometry, int engine, void* workspace, std::size_t, void const* beta,
                        Tensor4, void* y) = nullptr;
  Status (*data_run)(Handle, void const* alpha, Filter4, void const* w, Tensor4, void const* dy, Geometry, int engine, void* workspace, std::size_t, void const* beta,
                     Tensor4, void* dx) = nullptr;
  Status (*filter_run)(Handle, void const* alpha, Tensor4, void const* x, Tensor4, void const* dy, Geometry, int engine, void* workspace, std::size_t, void const* beta,
                       Filter4, void* dw) = nullptr;
  Handle handle = nullptr;
  std::mutex mutex;                                        // of the handle: a stream is set, then used
};
Library& library() {
  static Library one;
  return one;
}

struct Descriptors {
  Tensor4 x = nullptr, y = nullptr;
  Filter4 w = nullptr;
  Geometry geometry = nullptr;
  bool good = false;

  explicit Descriptors(ConvProblem const& p) {
    auto& l = library();
    int const type = p.x_type == DType::bf16 ? type_bf16 : type_f32, format = p.layout == Layout::nhwc ? format_nhwc : format_nchw;
    good = l.tensor_create(&x) == 0 && l.tensor_create(&y) == 0 && l.filter_create(&w) == 0 && l.geometry_create(&geometry) == 0 &&
           l.tensor_set(x, format, type, p.n, p.c, p.h, p.w) == 0 && l.tensor_set(y, format, type, p.n, p.k, p.p(), p.q()) == 0 &&
           l.filter_set(w, type, format, p.k, p.c / p.groups, p.r, p.s) == 0 &&
           l.geometry_set(geometry, p.pad_top, p.pad_left, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, cross_correlation, type_f32) == 0 &&
           l.geometry_groups(geometry, p.groups) == 0 && l.geometry_math(geometry, type == type_f32 && p.math == Math::exact ? math_fma : math_default) == 0;
  }
  Descriptors(Descriptors const&) = delete;
  Descriptors& operator=(Descriptors const&) = delete;
  ~Descriptors() {
    auto& l = library();
    if (geometry) l.geometry_destroy(geometry);
    if (w) l.filter_destroy(w);
    if (y) l.tensor_destroy(y);
    if (x) l.tensor_destroy(x);
  }
};

struct Offer {
  Engine engine;
  std::size_t workspace = 0;
};
struct Known {
  ConvProblem problem;
  Descriptors descriptors;
  std::vector<Offer> offers;
  explicit Known(ConvProblem const& p) : problem(p), descriptors(p) {
    auto& l = library();
    auto const& d = descriptors;
    if (!d.good) return;
    std::lock_guard lock(l.mutex);
    for (Engine const& e : engines_of(p.direction)) {
      std::size_t bytes = 0;
      Status const status = p.direction == Direction::fwd        ? l.forward_workspace(l.handle, d.x, d.w, d.geometry, d.y, e.number, &bytes)
                            : p.direction == Direction::bwd_data ? l.data_workspace(l.handle, d.w, d.y, d.geometry, d.x, e.number, &bytes)
                                                                 : l.filter_workspace(l.handle, d.x, d.y, d.geometry, d.w, e.number, &bytes);
      if (status == 0 && bytes <= std::size_t(8) << 30) offers.push_back({e, bytes});
    }
  }
};
// Kept for the life of the process: one for each problem that was ever asked for.
Known const& known(ConvProblem const& p) {
  static std::mutex guard;
  static std::list<Known> all;
  std::lock_guard lock(guard);
  for (auto const& k : all)
    if (k.problem == p) return k;
  return all.emplace_back(p);
}
Offer const* find(Known const& k, Config const& c) {
  for (auto const& o : k.offers)
    if (c.get(o.engine.name, 0) == 1) return &o;
  return k.offers.empty() || !c.empty() ? nullptr : &k.offers.front();
}

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (!p.one_type(DType::f32) && !p.one_type(DType::bf16)) return "f32 or bf16 only, all operands of one type";
  if (!p.plain()) return "slots";
  if ((p.h + 2 * std::int64_t(p.pad_top) - p.span_h()) / p.stride_h + 1 != p.p() || (p.w + 2 * std::int64_t(p.pad_left) - p.span_w()) / p.stride_w + 1 != p.q())
    return "padding that differs before and after";
  if (!library().missing().empty()) return library().missing();
  return known(p).offers.empty() ? "no engine of cuDNN takes it" : "";
}
std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  std::vector<Config> out;
  for (auto const& o : known(p).offers) out.push_back(o.engine.deterministic ? Config{{o.engine.name, 1}} : Config{{o.engine.name, 1}, {"deterministic", 0}});
  if (!out.empty()) out.push_back(Config{{known(p).offers.front().engine.name, 1}, {"descriptors_each", 1}});
  return out;
}
std::size_t scratch(ConvProblem const& p, Config const& c) {
  Offer const* const o = find(known(p), c);
  return o ? o->workspace : 0;
}
double seconds(ConvProblem const& p, DeviceFacts const&) { return 6e-6 + p.operations() / (p.x_type == DType::bf16 ? 300e12 : 25e12); }

Status launch(ConvProblem const& p, Descriptors const& d, Offer const& o, ConvArgs const& args, View memory, cudaStream_t stream) {
  auto& l = library();
  float const one = 1, zero = 0;
  std::lock_guard lock(l.mutex);
  if (Status const status = l.set_stream(l.handle, stream); status != 0) return status;
  if (p.direction == Direction::fwd) return l.forward_run(l.handle, &one, d.x, args.x.data, d.w, args.w.data, d.geometry, o.engine.number, memory.data, o.workspace, &zero, d.y, args.y.data);
  if (p.direction == Direction::bwd_data)
    return l.data_run(l.handle, &one, d.w, args.w.data, d.y, args.y.data, d.geometry, o.engine.number, memory.data, o.workspace, &zero, d.x, args.x.data);
  return l.filter_run(l.handle, &one, d.x, args.x.data, d.y, args.y.data, d.geometry, o.engine.number, memory.data, o.workspace, &zero, d.w, args.w.data);
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Known const& k = known(p);
  Offer const* const o = find(k, config);
  if (!o) fail(ErrorKind::device, "cuDNN has no engine '" + config.text() + "' for '" + p.text() + "'");
  Status const status = config.get("descriptors_each", 0) ? launch(p, Descriptors(p), *o, args, memory, stream) : launch(p, k.descriptors, *o, args, memory, stream);
  if (status != 0) fail(ErrorKind::device, "cuDNN's " + std::string(o->engine.name) + " failed (status " + std::to_string(status) + "); problem '" + p.text() + "'");
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_cudnn{
    .name = "cudnn", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run, .rival = true};

}  // namespace falconet
