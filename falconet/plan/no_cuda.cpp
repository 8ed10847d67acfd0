// The executor of NVIDIA GPUs in a build without CUDA.
#include "falconet/base/error.h"
#include "falconet/plan/executor.h"

namespace falconet {

std::unique_ptr<Executor> cuda_executor(int device, std::int64_t, std::shared_ptr<Parameters>, bool) {
  fail(ErrorKind::device, "a plan for cuda:" + std::to_string(device) + " cannot run: this falconet was built without CUDA");
}

}  // namespace falconet
