// OpenVINO: runs ONNX files on a CPU.
#include <exception>
#include <openvino/openvino.hpp>
#include <vector>

#include "backend.hpp"
#include "failure.hpp"

namespace hgfast {
namespace {

class OpenVino final : public Runner {
public:
    OpenVino(const Artifact& artifact, const Options& options)
        : path_(artifact.path), sidecar_(artifact.sidecar), device_(options.device.empty() ? "CPU" : options.device) {
        check_cpu(options);
        try {
            const auto model = core_.read_model(artifact.bytes, ov::Tensor());
            check(*model);
            // by default OpenVINO uses bf16 on CPUs that support it
            ov::AnyMap hints = {ov::hint::inference_precision(ov::element::f32),
                                ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
            if (options.threads > 0 && device_ == "CPU") hints.emplace(ov::inference_num_threads(options.threads));
            compiled_ = core_.compile_model(model, device_, hints);
            request_ = compiled_.create_infer_request();
        } catch (const Failure&) {
            throw;
        } catch (const std::exception& error) {
            throw Failure(Code::bad_model,
                          path_ + " cannot be read by OpenVINO (" + one_line(error.what()) + "): export it again");
        }
    }

    void* input(int count) override {
        if (!input_ || input_.get_shape()[0] != static_cast<std::size_t>(count)) {
            const auto side = static_cast<std::size_t>(sidecar_.input_size), images = static_cast<std::size_t>(count);
            const auto type = sidecar_.normalized ? ov::element::f32 : ov::element::u8;
            input_ = ov::Tensor(type, sidecar_.normalized ? ov::Shape{images, 3, side, side} : ov::Shape{images, side, side, 3});
            request_.set_input_tensor(input_);
        }
        return input_.data();
    }

    const float* run(int count) override {
        try {
            request_.infer();
            output_ = request_.get_tensor(compiled_.output("keypoints"));
        } catch (const std::exception& error) {
            throw Failure(Code::failed, path_ + " failed in OpenVINO (" + one_line(error.what()) + ")");
        }
        const ov::Shape wanted = {static_cast<std::size_t>(count), static_cast<std::size_t>(sidecar_.joints()), 3};
        if (output_.get_shape() != wanted || output_.get_element_type() != ov::element::f32)
            throw Failure(Code::bad_model, path_ + " gives keypoints " + output_.get_shape().to_string() + ", not " +
                                               wanted.to_string() + " as its sidecar says: export it again");
        return output_.data<const float>();
    }

    std::string about() const override {
        return std::string("OpenVINO ") + ov::get_openvino_version().buildNumber + " on " + device_;
    }

private:
    /// Throw Failure for a stream, and for a device that OpenVINO does not have on this machine.
    void check_cpu(const Options& options) {
        try {
            if (options.stream == nullptr) {
                core_.get_property(device_, ov::supported_properties);
                return;
            }
        } catch (const std::exception&) {  // reported below
        }
        throw Failure(Code::bad_option,
                      "openvino runs on the CPU: leave out device and stream, or choose a runtime that uses a GPU");
    }

    /// Check that the inputs and outputs of the network match the sidecar.
    void check(const ov::Model& model) const {
        const auto side = static_cast<std::int64_t>(sidecar_.input_size), joints = static_cast<std::int64_t>(sidecar_.joints());
        const auto any = ov::Dimension::dynamic();
        const auto takes = sidecar_.normalized ? ov::PartialShape{any, 3, side, side} : ov::PartialShape{any, side, side, 3};
        const auto type = sidecar_.normalized ? ov::element::f32 : ov::element::u8;
        if (model.inputs().size() != 1 || !model.input().get_partial_shape().compatible(takes) ||
            model.input().get_element_type() != type)
            throw Failure(Code::bad_model, path_ + " does not take what its sidecar says: export it again");
        for (const auto& output : model.outputs())
            if (output.get_names().count("keypoints") > 0 && output.get_partial_shape().compatible({any, joints, 3})) return;
        throw Failure(Code::bad_model, path_ + " does not give the keypoints that its sidecar says: export it again");
    }

    std::string path_;
    Sidecar sidecar_;
    std::string device_;
    ov::Core core_;
    ov::CompiledModel compiled_;
    ov::InferRequest request_;
    ov::Tensor input_, output_;
};

}  // namespace

std::unique_ptr<Runner> open_openvino(const Artifact& artifact, const Options& options) {
    return std::make_unique<OpenVino>(artifact, options);
}

}  // namespace hgfast
