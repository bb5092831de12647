//! The enums of the protocol. A number that the protocol does not know is refused, and 0 means the default.

use crate::{
    error::{Error, Result},
    export::Layout,
    gene::{DepthRule, Method},
    proto,
    tensor::Dtype,
};

pub(super) const fn dtype_to_proto(dtype: Dtype) -> proto::Dtype {
    match dtype {
        Dtype::F32 => proto::Dtype::F32,
        Dtype::F16 => proto::Dtype::F16,
        Dtype::Bf16 => proto::Dtype::Bf16,
    }
}

pub(super) fn dtype_from_proto(value: i32) -> Result<Dtype> {
    match proto::Dtype::try_from(value) {
        Ok(proto::Dtype::Unspecified | proto::Dtype::F32) => Ok(Dtype::F32),
        Ok(proto::Dtype::F16) => Ok(Dtype::F16),
        Ok(proto::Dtype::Bf16) => Ok(Dtype::Bf16),
        Err(_) => Err(unknown("dtype", value, "Dtype")),
    }
}

pub(super) const fn depth_rule_to_proto(rule: DepthRule) -> proto::DepthRule {
    match rule {
        DepthRule::Trained => proto::DepthRule::Trained,
        DepthRule::Cyclic => proto::DepthRule::Cyclic,
    }
}

pub(super) fn depth_rule_from_proto(value: i32) -> Result<DepthRule> {
    match proto::DepthRule::try_from(value) {
        Ok(proto::DepthRule::Unspecified | proto::DepthRule::Trained) => Ok(DepthRule::Trained),
        Ok(proto::DepthRule::Cyclic) => Ok(DepthRule::Cyclic),
        Err(_) => Err(unknown("depth_rule", value, "DepthRule")),
    }
}

pub(super) const fn method_to_proto(method: Method) -> proto::Method {
    match method {
        Method::Gene => proto::Method::Gene,
        Method::Scratch => proto::Method::Scratch,
        Method::FirstLayers => proto::Method::FirstLayers,
        Method::Uniform => proto::Method::Uniform,
        Method::Importance => proto::Method::Importance,
    }
}

pub(super) fn method_from_proto(value: i32) -> Result<Method> {
    match proto::Method::try_from(value) {
        Ok(proto::Method::Unspecified | proto::Method::Gene) => Ok(Method::Gene),
        Ok(proto::Method::Scratch) => Ok(Method::Scratch),
        Ok(proto::Method::FirstLayers) => Ok(Method::FirstLayers),
        Ok(proto::Method::Uniform) => Ok(Method::Uniform),
        Ok(proto::Method::Importance) => Ok(Method::Importance),
        Err(_) => Err(unknown("method", value, "Method")),
    }
}

pub(super) const fn layout_to_proto(layout: Layout) -> proto::Layout {
    match layout {
        Layout::Timm => proto::Layout::Timm,
        Layout::Transformers => proto::Layout::Transformers,
    }
}

pub(super) fn layout_from_proto(value: i32) -> Result<Layout> {
    match proto::Layout::try_from(value) {
        Ok(proto::Layout::Unspecified | proto::Layout::Timm) => Ok(Layout::Timm),
        Ok(proto::Layout::Transformers) => Ok(Layout::Transformers),
        Err(_) => Err(unknown("layout", value, "Layout")),
    }
}

fn unknown(field: &str, value: i32, of: &str) -> Error {
    Error::invalid(field, format!("{value} is not a value of genebank.v1.{of}"))
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    #[test]
    fn every_value_comes_back_and_0_is_the_default() {
        for &dtype in Dtype::VARIANTS {
            assert_eq!(dtype_from_proto(dtype_to_proto(dtype).into()).unwrap(), dtype);
        }
        for rule in [DepthRule::Trained, DepthRule::Cyclic] {
            assert_eq!(depth_rule_from_proto(depth_rule_to_proto(rule).into()).unwrap(), rule);
        }
        for &method in Method::VARIANTS {
            assert_eq!(method_from_proto(method_to_proto(method).into()).unwrap(), method);
        }
        for &layout in Layout::VARIANTS {
            assert_eq!(layout_from_proto(layout_to_proto(layout).into()).unwrap(), layout);
        }
        assert_eq!(dtype_from_proto(0).unwrap(), Dtype::default());
        assert_eq!(depth_rule_from_proto(0).unwrap(), DepthRule::default());
        assert_eq!(method_from_proto(0).unwrap(), Method::default());
        assert_eq!(layout_from_proto(0).unwrap(), Layout::default());
    }
}
