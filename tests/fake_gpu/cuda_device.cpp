// A CUDA device for FakeTensorMode in a CPU build of torch, which has none: autograd asks every device for streams and events.
// It must be loaded before torch asks for its CUDA hooks, and it computes nothing.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/FakeGuardImpl.h>

using c10::DeviceType;
using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;

static c10::impl::DeviceGuardImplRegistrar guard(DeviceType::CUDA, new c10::impl::FakeGuardImpl<DeviceType::CUDA>());

namespace {
struct CUDAHooks : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace
